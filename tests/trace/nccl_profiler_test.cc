// Method: NCCL's part is played here (nccl_driver.h): it calls the plugin's table in NCCL's order,
// and in orders that NCCL has been seen to get wrong, and the records in the segment say what came
// of it. Not checked: that NCCL makes these calls (nccl_replay_test.cc, nccl_standin_test.cc), and
// never on a GPU.
#include "tests/trace/nccl_driver.h"
#include <convoy/trace/event.h>
#include <convoy/trace/nccl.h>
#include <convoy/trace/operation.h>

#include <catch2/catch.hpp>

#include <chrono>
#include <map>
#include <random>
#include <set>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::trace::nccl {
namespace {

TEST_CASE("a collective: called, running, done when the kernel has ended on all of its channels") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0xabc, 8, 3);
  void* call = nccl.call(c, kAllReduce, 1000);
  nccl.stop(call);
  void* coll = nccl.collective(c, call, kAllReduce, 1000, 2);
  nccl.stop(coll);
  const uint64_t begin = gpu_now();
  void* a = nccl.kernel(c, coll, 4, begin + 100);
  void* b = nccl.kernel(c, coll, 5, begin);
  nccl.end_kernel(a, begin + 1200);
  CHECK(lines_of(trace.read()) == "issued all_reduce/float32/ 1\nstarted all_reduce/float32/ 1\n");
  nccl.end_kernel(b, begin + 1500);
  const auto end = trace.read();
  REQUIRE(lines_of(end) == "completed all_reduce/float32/ 1\n");
  CHECK(only(end, Kind::kCompleted).value == 1500);
  CHECK(parse_membership(only(end, Kind::kCompleted).group) == Membership{"nccl/abc", 3, 8});
  CHECK(parse_group(only(end, Kind::kCompleted).group) == GroupInfo{"nccl/abc", {}});
}

TEST_CASE("kernel times stand on the host's clock, however far off the GPU's is") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(1, 2, 0);
  nccl.run(c, kAllReduce, 1);  // so that the clocks are known
  (void)trace.read();
  void* call = nccl.call(c, kAllReduce, 1);
  void* coll = nccl.collective(c, call, kAllReduce, 1);
  const uint64_t begin = gpu_now(), begin_ticks = ticks();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  const uint64_t end = gpu_now(), end_ticks = ticks();
  std::this_thread::sleep_for(std::chrono::milliseconds(20));
  // The proxy comes to know of both late.
  nccl.end_kernel(nccl.kernel(c, coll, 0, begin), end);
  const auto seen = trace.read();
  const TimeScale scale = trace.segment->time_scale();
  const auto is_at = [&](Kind kind, uint64_t at) {
    const int64_t off = scale.monotonic_ns(only(seen, kind).time) - scale.monotonic_ns(at);
    INFO("off by " << off << " ns");
    return off > -10'000'000 && off < 10'000'000;  // a machine that is busy
  };
  CHECK(is_at(Kind::kStarted, begin_ticks));
  CHECK(is_at(Kind::kCompleted, end_ticks));
  CHECK(only(seen, Kind::kCompleted).value == end - begin);
}

TEST_CASE("all collectives of a communicator have one order, with the bytes that a rank gives") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x10, 4, 1);
  nccl.run(c, kAllReduce, 10);
  nccl.run(c, "AllGather", 10);
  nccl.run(c, "ReduceScatter", 10);
  nccl.run(c, kAllReduce, 10);
  const auto seen = trace.read();
  std::map<uint32_t, std::string> order;
  for (const Seen& r : seen) {
    if (r.kind == Kind::kIssued) order[r.sequence] = r.name + " " + std::to_string(r.value);
  }
  CHECK(order == std::map<uint32_t, std::string>{{1, "all_reduce/float32/ 40"},
                                                 {2, "all_gather/float32/ 40"},
                                                 {3, "reduce_scatter/float32/ 160"},
                                                 {4, "all_reduce/float32/ 40"}});
  CHECK(count_of(seen, Kind::kCompleted) == 4);
}

TEST_CASE("types and operations that are not known, or not there, are recorded as such") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x11, 2, 0);
  nccl.call(c, "AllGatherV", 10, "Unknown");
  nccl.call(c, nullptr, 10, nullptr);
  CHECK(lines_of(trace.read()) == "issued nccl operation// 1\nissued nccl operation// 2\n");
}

TEST_CASE("a broadcast, of which NCCL tells the call only, ends with it; unless it tells more") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x12, 4, 1);
  void* call = nccl.call(c, "Broadcast", 3, "ncclInt64", 2);
  CHECK(lines_of(trace.read()) == "issued broadcast/int64/ 1\n");
  nccl.stop(call);
  const auto end = trace.read();
  CHECK(lines_of(end) == "completed broadcast/int64/ 1\n");
  CHECK(only(end, Kind::kCompleted).extra == 3);
  nccl.stop(call);
  // NCCL_ALLGATHERV_ENABLE=0: the second one is waited for.
  nccl.stop(nccl.collective(c, call, "Broadcast", 24));
  CHECK(lines_of(trace.read()).empty());
  call = nccl.call(c, "Broadcast", 3, "ncclInt64", 2);
  nccl.stop(call);
  void* coll = nccl.collective(c, call, "Broadcast", 24);
  CHECK(lines_of(trace.read()) == "issued broadcast/int64/ 2\n");
  nccl.end_kernel(nccl.kernel(c, coll, 0, gpu_now()), gpu_now());
  CHECK(lines_of(trace.read()) == "started broadcast/int64/ 2\ncompleted broadcast/int64/ 2\n");
}

TEST_CASE("messages count for each peer and direction") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x13, 4, 1);
  const auto one = [&](const char* function, int peer) {
    nccl.stop(nccl.message(c, nccl.message_call(c, function), function, peer, 8));
  };
  one("Send", 2);
  one("Send", 2);
  one("Recv", 2);
  one("Send", 0);
  one("Send", 2);
  one("Send", 4);  // is no member
  one("Send", -1);
  std::vector<std::string> seen;
  for (const Seen& r : trace.read()) {
    if (r.kind != Kind::kIssued) continue;
    CHECK(r.value == 16);
    seen.push_back(r.name + std::to_string(r.extra - 1) + ": " + std::to_string(r.sequence));
  }
  CHECK(seen == std::vector<std::string>{"send/bfloat16/2: 1", "send/bfloat16/2: 2",
                                         "recv/bfloat16/2: 1", "send/bfloat16/0: 1",
                                         "send/bfloat16/2: 3"});
}

TEST_CASE("a message is issued when it is called, though it is told at the launch of its group") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x14, 4, 1);
  const uint64_t before = ticks();
  void* call = nccl.message_call(c, "Send");
  const uint64_t after = ticks();
  nccl.stop(call);
  std::this_thread::sleep_for(std::chrono::milliseconds(5));
  nccl.message(c, call, "Send", 2, 8);
  const uint64_t issued = only(trace.read(), Kind::kIssued).time;
  CHECK(issued + 64 > before);
  CHECK(issued <= after);
}

TEST_CASE("peers are ranks of the job where those are known") {
  Trace trace;  // rank 5 of 16
  FakeNccl nccl;
  const auto seen_in = [&](void* c) {
    nccl.message(c, nullptr, "Send", 1, 1);
    return only(trace.read(), Kind::kIssued);
  };
  // The whole job, in its order.
  Seen seen = seen_in(nccl.open(0x20, 16, 5));
  CHECK(seen.extra == 2);
  CHECK(parse_group(seen.group).ranks.size() == 16);
  // The whole job, in another order: numbers of the group.
  seen = seen_in(nccl.open(0x21, 16, 4));
  CHECK(parse_membership(seen.group) == Membership{"nccl/21", 4, 16});
  // Told.
  name_communicator("pp[1]", {5, 9, 13});
  seen = seen_in(nccl.open(0x22, 3, 0, "pp[1]"));
  CHECK(seen.extra == 10);
  CHECK(parse_group(seen.group) == GroupInfo{"nccl/pp[1] 22", {5, 9, 13}});
  // Told of another size: not believed.
  seen = seen_in(nccl.open(0x23, 2, 0, "pp[1]"));
  CHECK(parse_membership(seen.group) == Membership{"nccl/23", 0, 2});
}

// --- Levels.

TEST_CASE("levels: NCCL is asked for no more than is recorded; numbers go on when it is off") {
  Trace trace(Level::kCollectives);
  FakeNccl nccl;
  void* c = nccl.open(0x40, 2, 0);
  CHECK((nccl.mask & event::kKernelChannel) != 0);
  CHECK((nccl.mask & (event::kProxyOp | event::kProxyStep | event::kKernelLaunch)) == 0);
  CHECK((nccl.mask & event::kCopyCollective) != 0);
  nccl.run(c, kAllReduce, 1);
  trace.segment->set_level(Level::kOff);
  Profiler::get().keep();
  CHECK(nccl.mask ==
        static_cast<int>(event::kCollectiveCall | event::kCollective | event::kMessage));
  (void)trace.read();
  nccl.run(c, kAllReduce, 1);
  nccl.message(c, nccl.message_call(c, "Send"), "Send", 1, 1);
  CHECK(trace.read().empty());
  trace.segment->set_level(Level::kSpans);
  // By itself, within a moment.
  for (int i = 0; i < 500 && (__atomic_load_n(&nccl.mask, __ATOMIC_RELAXED) &
                              static_cast<int>(event::kProxyStep)) == 0;
       ++i) {
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  CHECK((__atomic_load_n(&nccl.mask, __ATOMIC_RELAXED) & static_cast<int>(event::kProxyStep)) != 0);
  nccl.run(c, kAllReduce, 1);
  nccl.message(c, nccl.message_call(c, "Send"), "Send", 1, 1);
  const auto seen = trace.read();
  CHECK(only(seen, Kind::kIssued, 0).sequence == 3);
  CHECK(only(seen, Kind::kIssued, 1).sequence == 2);
}

TEST_CASE("levels: a launch is a span; version 5 is asked for no copy engine") {
  Trace trace(Level::kSpans);
  FakeNccl nccl(ncclProfiler_v5);
  void* c = nccl.open(0x41, 2, 0);
  CHECK((nccl.mask & event::kCopyCollective) == 0);
  CHECK((nccl.mask & event::kKernelLaunch) != 0);
  Description d{};
  d.type = event::kKernelLaunch;
  void* launch = nccl.start(c, d);
  nccl.stop(launch);
  const auto seen = trace.read();
  REQUIRE(seen.size() == 2);
  CHECK(seen[0].kind == Kind::kBegin);
  CHECK(seen[1].kind == Kind::kEnd);
  CHECK(seen[1].name == names::kLaunch);
}

TEST_CASE("what the copy engine does ends when it has been handed over") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x42, 2, 0);
  void* call = nccl.call(c, "AllGather", 1);
  nccl.stop(call);
  Description d{};
  d.type = event::kCopyCollective;
  d.parent = call;
  nccl.stop(nccl.start(c, d));
  CHECK(lines_of(trace.read()) ==
        "issued all_gather/float32/ 1\ncompleted all_gather/float32/ 1\n");
}

// --- The network.

void sleep_ms(int ms) {
  std::this_thread::sleep_for(std::chrono::milliseconds(ms));
}

TEST_CASE("steps: bytes and waits of each peer and direction, and each step at level details") {
  Trace trace;  // rank 5 of 16
  FakeNccl nccl;
  name_communicator("ring", {5, 6, 7});
  void* c = nccl.open(0x50, 3, 0, "ring");
  void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
  void* send = nccl.proxy(c, coll, 1, 3, true);
  void* receive = nccl.proxy(c, coll, 2, 3, false);
  void* step = nccl.step(c, send, 4);
  nccl.state(step, event_state::kSendGpuWait);
  sleep_ms(2);
  nccl.state(step, event_state::kSendPeerWait);
  sleep_ms(4);
  nccl.state(step, event_state::kSendWait, 1000);
  sleep_ms(8);
  nccl.stop(step);
  step = nccl.step(c, receive, 0);
  nccl.state(step, event_state::kReceiveWait);
  sleep_ms(4);
  nccl.state(step, event_state::kReceiveFlushWait, 2000);
  nccl.state(step, event_state::kReceiveGpuWait, 2000);
  sleep_ms(2);
  nccl.stop(step);
  nccl.stop(step);                                 // twice
  nccl.state(step, event_state::kReceiveWait, 1);  // too late
  nccl.stop(send);
  nccl.stop(receive);
  Profiler::get().keep();
  const auto seen = trace.read();
  const uint32_t to = 7, from = 8;  // ranks + 1
  const uint64_t ms = 1'000'000;
  CHECK(counter_of(seen, names::kSentBytes, to) == 1000);
  CHECK(counter_of(seen, names::kReceivedBytes, from) == 2000);
  const auto waited = [&](const char* name, uint32_t peer, uint64_t least) {
    const uint64_t value = counter_of(seen, name, peer);
    INFO(name << " " << value);
    return value >= least - least / 50 && value < least + 1000 * ms;
  };
  CHECK(waited(names::kSourceWait, to, 2 * ms));
  CHECK(waited(names::kPeerWait, to, 4 * ms));
  CHECK(waited(names::kSendWait, to, 8 * ms));
  CHECK(waited(names::kReceiveWait, from, 4 * ms));
  CHECK(waited(names::kDrainWait, from, 2 * ms));
  CHECK(waited(kSendStepMedian, to, 14 * ms));
  CHECK(waited(kReceiveStepTail, from, 6 * ms));
  for (const Seen& r : seen) {
    if (r.kind == Kind::kCounter && r.extra != 0) CHECK(r.group.empty());
  }
  // The step itself.
  REQUIRE(count_of(seen, Kind::kInstant) == 2);
  const Seen& one = only(seen, Kind::kInstant);
  CHECK(one.name == kSendStep);
  CHECK(one.sequence == 4);
  CHECK(one.extra == (3U << 24 | to));
  const auto units = [&](int at) { return (one.value >> (21 * at) & ((1 << 21) - 1)) * 64; };
  CHECK(units(2) >= 2 * ms - ms / 20);
  CHECK(units(1) >= 4 * ms - ms / 20);
  CHECK(units(0) >= 8 * ms - ms / 20);
  // Sums go on over the communicator's end.
  nccl.close(c);
  c = nccl.open(0x51, 3, 0, "ring");
  send = nccl.proxy(c, nullptr, 1, 0, true);
  step = nccl.step(c, send, 0);
  nccl.state(step, event_state::kSendWait, 500);
  nccl.stop(step);
  Profiler::get().keep();
  CHECK(counter_of(trace.read(), names::kSentBytes, to) == 1500);
}

TEST_CASE("steps: of a group whose ranks are not known, peers are its numbers") {
  Trace trace(Level::kSpans);
  FakeNccl nccl;
  void* c = nccl.open(0x52, 3, 2);
  void* step = nccl.step(c, nccl.proxy(c, nullptr, 1, 0, true), 0);
  nccl.state(step, event_state::kSendWait, 100);
  nccl.stop(step);
  Profiler::get().keep();
  const auto seen = trace.read();
  CHECK(count_of(seen, Kind::kInstant) == 0);
  for (const Seen& r : seen) {
    if (r.kind != Kind::kCounter || r.extra == 0) continue;
    CHECK(r.extra == 2);
    CHECK(parse_membership(r.group) == Membership{"nccl/52", 2, 3});
  }
  CHECK(counter_of(seen, names::kSentBytes, 2) == 100);
}

TEST_CASE("without any kernel's events, an operation ends with the last of its proxies") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x53, 2, 0);
  const auto begin = [&] {
    void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
    std::vector<void*> proxies = {nccl.proxy(c, coll, 1, 0, true),
                                  nccl.proxy(c, coll, 1, 0, false)};
    nccl.stop(coll);
    return proxies;
  };
  // The first: kernel's events may still come.
  for (void* proxy : begin()) nccl.stop(proxy);
  Profiler::get().keep();
  CHECK(lines_of(trace.read()) == "issued all_reduce/float32/ 1\n");
  Profiler::get().keep();
  CHECK(lines_of(trace.read()) == "completed all_reduce/float32/ 1\n");
  const auto proxies = begin();
  nccl.state(proxies[0], event_state::kProxyOpInProgress);
  nccl.stop(proxies[0]);
  CHECK(lines_of(trace.read()) == "issued all_reduce/float32/ 2\nstarted all_reduce/float32/ 2\n");
  nccl.stop(proxies[1]);
  CHECK(lines_of(trace.read()) == "completed all_reduce/float32/ 2\n");
}

// --- Parts.

TEST_CASE("the sketch's error is within its bound, from its least to its largest value") {
  std::mt19937_64 random(1);
  double worst = 0;
  for (int i = 0; i < 200000; ++i) {
    const int bits = Sketch::kLeastBits + static_cast<int>(random() % 27);
    const uint64_t value = (uint64_t{1} << bits) + random() % (uint64_t{1} << bits);
    const double read = Sketch::value_of(Sketch::bucket_of(value));
    worst =
        std::max(worst, std::abs(read - static_cast<double>(value)) / static_cast<double>(value));
  }
  CHECK(worst <= Sketch::kError);
  CHECK(worst > Sketch::kError / 2);
  CHECK(Sketch::bucket_of(0) == 0);
  CHECK(Sketch::bucket_of(UINT64_MAX) == Sketch::kBuckets - 1);
}

TEST_CASE("the GPU's clock is followed while it drifts, and over pauses") {
  for (const double ppm : {-100.0, 100.0}) {
    GpuClock clock;
    std::mt19937_64 random(7);
    int64_t worst = 0;
    double host = 1e12;
    for (int i = 0; i < 40000; ++i) {
      host += i % 10000 == 0 ? 60e9 : 100e3;  // a minute's pause, now and then
      const auto gpu = static_cast<uint64_t>(5e17 + host * (1 + ppm * 1e-6));
      const int64_t late = 1000 + static_cast<int64_t>(random() % 200'000);
      const auto age = clock.age(gpu, static_cast<int64_t>(host) + late);
      REQUIRE(age);
      if (i % 10000 > 2000) worst = std::max(worst, std::abs(*age - late));
    }
    INFO(ppm << " ppm: " << worst << " ns");
    CHECK(worst < 30'000);
  }
}

TEST_CASE("the GPU's clock is set: after some times that can't be, it is believed") {
  GpuClock clock;
  const int64_t host = 1'000'000'000'000;
  REQUIRE(clock.age(5000, host) == 0);
  uint32_t refused = 0;
  while (!clock.age(5000 + 3'000'000'000, host + 1000) && refused < 100) ++refused;
  CHECK(refused == GpuClock::kJumpsMax - 1);
  CHECK(clock.age(5000 + 3'000'000'000, host + 2000) == 1000);
}

TEST_CASE("memberships as text") {
  CHECK(parse_membership(membership_text({"nccl/1f", 3, 8})) == Membership{"nccl/1f", 3, 8});
  for (const char* bad : {"", "nccl/1f", "nccl/1f\x1f",
                          "nccl/1f\x1f"
                          "0+1*2",
                          "g\x1f@8/8", "g\x1f@1", "g\x1f@-1/2", "g\x1f@1/99999999"}) {
    CHECK_FALSE(parse_membership(bad));
  }
}

}  // namespace
}  // namespace convoy::trace::nccl
