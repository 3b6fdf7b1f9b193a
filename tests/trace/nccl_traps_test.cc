// Method: as nccl_profiler_test.cc, with the calls that NCCL makes in wrong order, twice, late, or
// with times that can't be, and with random ones from several threads. Run it under the address,
// undefined and thread sanitizers, too.
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

// --- Traps.

TEST_CASE("trap: handles that are over, also of a communicator that is, change nothing") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x30, 2, 0);
  void* call = nccl.call(c, kAllReduce, 1);
  nccl.stop(call);
  void* coll = nccl.collective(c, call, kAllReduce, 1);
  void* kernel = nccl.kernel(c, coll, 0, gpu_now());
  nccl.end_kernel(kernel, gpu_now());
  (void)trace.read();
  const uint64_t before = Profiler::get().losses().stale;
  const auto poke = [&] {
    for (void* h : {call, coll, kernel}) {
      nccl.state(h, event_state::kKernelChannelStop, gpu_now());
      nccl.stop(h);
      CHECK(nccl.collective(c, h, kAllReduce, 1) == nullptr);
      CHECK(nccl.kernel(c, h, 1, gpu_now()) == nullptr);
      CHECK(nccl.step(c, h, 1) == nullptr);
      if (void* proxy = nccl.proxy(c, h, 1, 0, true)) nccl.stop(proxy);
    }
  };
  poke();
  nccl.close(c);
  poke();
  void* again = nccl.open(0x31, 2, 0);  // in its place
  poke();
  CHECK(nccl.call(c, kAllReduce, 1) == nullptr);
  CHECK(lines_of(trace.read()).empty());
  CHECK(Profiler::get().losses().stale > before);
  nccl.run(again, kAllReduce, 1);
  CHECK(
      lines_of(trace.read()) ==
      "issued all_reduce/float32/ 1\nstarted all_reduce/float32/ 1\ncompleted all_reduce/float32/ "
      "1\n");
}

TEST_CASE("trap: pointers that are none of ours") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x32, 2, 0);
  int here = 0;
  for (void* wild :
       {static_cast<void*>(nullptr), static_cast<void*>(&here), reinterpret_cast<void*>(1),
        reinterpret_cast<void*>(UINT64_MAX), reinterpret_cast<void*>(0x3fffffffffffffff)}) {
    nccl.stop(wild);
    for (int s = 0; s < 32; ++s) nccl.state(wild, s, 1);
    ncclProfiler_v6.state(wild, event_state::kKernelChannelStop, nullptr);
    ncclProfiler_v6.finalize(wild);
    CHECK(nccl.call(wild, kAllReduce, 1) == nullptr);
    CHECK(nccl.kernel(c, wild, 0, 1) == nullptr);
    CHECK(nccl.step(c, wild, 0) == nullptr);
    if (wild != nullptr) CHECK(nccl.collective(c, wild, kAllReduce, 1) == nullptr);
    nccl.stop(nccl.proxy(c, wild, 1, 0, true));
  }
  // Handles that look like ours, of communicators that never were.
  for (uint32_t kind = 0; kind < 16; ++kind) {
    for (const uint8_t place : {0, 1, 77, 127, 128, 255}) {
      void* forged = Handle{static_cast<HandleKind>(kind), place, 1, 1}.pack();
      nccl.state(forged, event_state::kKernelChannelStop, 1);
      nccl.state(forged, event_state::kProxyOpInProgress, 1);
      nccl.stop(forged);
      nccl.kernel(c, forged, 0, 1);
      nccl.step(c, forged, 0);
      nccl.call(forged, kAllReduce, 1);
    }
  }
  void* handle = &here;
  ncclProfiler_v6.start(c, &handle, nullptr);
  CHECK(handle == nullptr);
  Description d{};
  ncclProfiler_v6.start(c, nullptr, &d);
  for (uint64_t type = 0; type < 70000; type += 997) {
    d.type = type;
    d.bytes[0] = 0;
    ncclProfiler_v6.start(nullptr, &handle, &d);
  }
  CHECK(lines_of(trace.read()).empty());
  // Init that makes no sense.
  int mask = 0;
  void* context = nullptr;
  CHECK(ncclProfiler_v6.init(nullptr, 1, &mask, nullptr, 1, 2, 0, nullptr) != 0);
  CHECK(ncclProfiler_v6.init(&context, 1, &mask, nullptr, 1, 0, 0, nullptr) != 0);
  CHECK(ncclProfiler_v6.init(&context, 1, &mask, nullptr, 1, 2, 2, nullptr) != 0);
}

TEST_CASE("trap: a proxy that works for another process has a parent elsewhere") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x33, 4, 0);
  void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
  // The other's handle has the same bits as ours.
  void* foreign = nccl.proxy(c, coll, 2, 0, true, ::getpid() + 1);
  void* step = nccl.step(c, foreign, 0);
  nccl.state(step, event_state::kSendWait, 777);
  nccl.stop(step);
  nccl.stop(foreign);
  (void)nccl.proxy(c, reinterpret_cast<void*>(0xdead0000beef), 2, 0, true, 1);
  Profiler::get().keep();
  Profiler::get().keep();
  Profiler::get().keep();
  const auto seen = trace.read();
  CHECK(lines_of(seen) == "issued all_reduce/float32/ 1\n");
  CHECK(counter_of(seen, names::kSentBytes, 3) == 777);  // goes over our network card
}

TEST_CASE("trap: kernel times that can't be are counted, and the host's are taken") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x34, 2, 0);
  for (int i = 0; i < 3; ++i) nccl.run(c, kAllReduce, 1);
  (void)trace.read();
  const auto& losses = Profiler::get().losses();
  const auto run = [&](uint64_t begin, uint64_t end) {
    const uint64_t before = losses.bogus_times, issued = ticks();
    void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
    nccl.end_kernel(nccl.kernel(c, coll, 0, begin), end);
    const auto seen = trace.read();
    CHECK(count_of(seen, Kind::kStarted) == 1);
    CHECK(count_of(seen, Kind::kCompleted) == 1);
    for (const Seen& r : seen) {
      CHECK(r.time >= issued);
      CHECK(r.time <= ticks());
    }
    CHECK(losses.bogus_times > before);
    return only(seen, Kind::kCompleted).value;
  };
  const uint64_t second = 1'000'000'000;
  CHECK(run(0, 0) == 0);
  CHECK(run(0, gpu_now()) == 0);
  CHECK(run(gpu_now(), 0) == 0);
  const uint64_t begin = gpu_now();
  CHECK(run(begin, begin - 100) == 0);             // stop before start
  CHECK(run(gpu_now(), gpu_now() + second) == 0);  // longer than since the call
  CHECK(run(gpu_now() - second, gpu_now()) == 0);  // before it was called
  CHECK(run(gpu_now() + 50 * second, gpu_now() + 51 * second) == 0);
  CHECK(run(UINT64_MAX, UINT64_MAX) == 0);
  CHECK(run(1, 2) == 0);
  // And the clock has not been led astray.
  std::this_thread::sleep_for(std::chrono::milliseconds(1));
  void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
  const uint64_t now = gpu_now();
  nccl.end_kernel(nccl.kernel(c, coll, 0, now), now + 5000);
  CHECK(only(trace.read(), Kind::kCompleted).value == 5000);
}

TEST_CASE("trap: a channel's time goes back: its place was written again before it was read") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x35, 2, 0);
  const uint64_t before = Profiler::get().losses().bogus_times;
  void* first = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
  void* second = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1);
  const uint64_t now = gpu_now();
  nccl.end_kernel(nccl.kernel(c, first, 0, now), now + 10);  // in truth that of a later one
  CHECK(Profiler::get().losses().bogus_times == before);
  nccl.end_kernel(nccl.kernel(c, second, 0, now - 2000), now - 1000);
  CHECK(Profiler::get().losses().bogus_times == before + 1);
  CHECK(count_of(trace.read(), Kind::kCompleted) == 2);
}

TEST_CASE("trap: channels that come twice, too many, or not at all; stops without a start") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x36, 2, 0);
  void* coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1, 2);
  void* kernel = nccl.kernel(c, coll, 7, gpu_now());
  CHECK(nccl.kernel(c, coll, 7, gpu_now()) == nullptr);
  CHECK(nccl.kernel(c, coll, 64, gpu_now()) == nullptr);
  nccl.stop(kernel);
  nccl.stop(kernel);
  // A channel that never began.
  Handle h = Handle::unpack(kernel);
  h.detail = 9;
  nccl.stop(h.pack());
  CHECK(lines_of(trace.read()) == "issued all_reduce/float32/ 1\nstarted all_reduce/float32/ 1\n");
  nccl.end_kernel(nccl.kernel(c, coll, 8, gpu_now()), gpu_now());
  CHECK(lines_of(trace.read()) == "completed all_reduce/float32/ 1\n");
  // None at all is told: as one.
  coll = nccl.collective(c, nccl.call(c, kAllReduce, 1), kAllReduce, 1, 0);
  nccl.end_kernel(nccl.kernel(c, coll, 0, gpu_now()), gpu_now());
  CHECK(count_of(trace.read(), Kind::kCompleted) == 1);
}

TEST_CASE("trap: captured graphs count when they are replayed, in a group of their own") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x37, 2, 0);
  void* call = nccl.call(c, kAllReduce, 1, "ncclFloat32", 0, true);
  nccl.stop(call);
  void* message_call = nccl.message_call(c, "Send", true);
  nccl.stop(message_call);
  CHECK(lines_of(trace.read()).empty());
  nccl.run(c, kAllReduce, 1);
  (void)trace.read();
  for (uint32_t replay = 1; replay <= 3; ++replay) {
    void* coll = nccl.collective(c, call, kAllReduce, 1);
    nccl.stop(coll);
    nccl.end_kernel(nccl.kernel(c, coll, 0, gpu_now()), gpu_now());
    nccl.message(c, message_call, "Send", 1, 1);
    const auto seen = trace.read();
    CHECK(count_of(seen, Kind::kIssued) == 2);
    CHECK(count_of(seen, Kind::kCompleted) == 1);
    for (const Seen& r : seen) {
      CHECK(r.sequence == replay);
      CHECK(parse_group(r.group).name == "nccl/37/graph");
    }
  }
  // Neither counts in the group of calls.
  nccl.call(c, kAllReduce, 1);
  nccl.message(c, nullptr, "Send", 1, 1);
  const auto seen = trace.read();
  CHECK(only(seen, Kind::kIssued, 0).sequence == 2);
  CHECK(only(seen, Kind::kIssued, 1).sequence == 1);
}

TEST_CASE("trap: an operation that is never told an end of has one when a later one has") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x38, 2, 0);
  nccl.call(c, kAllReduce, 1);                                 // no Coll comes
  nccl.collective(c, nccl.call(c, "Reduce", 1), "Reduce", 1);  // no kernel's events
  void* hung = nccl.collective(c, nccl.call(c, "AllGather", 1), "AllGather", 1);
  (void)nccl.kernel(c, hung, 0, gpu_now());  // began, and no end
  Profiler::get().keep();
  Profiler::get().keep();
  CHECK(count_of(trace.read(), Kind::kCompleted) == 0);
  nccl.run(c, kAllReduce, 1);
  const uint64_t end = only(trace.read(), Kind::kCompleted).time;
  Profiler::get().keep();
  Profiler::get().keep();
  const auto seen = trace.read();
  CHECK(lines_of(seen) == "completed all_reduce/float32/ 1\ncompleted reduce/float32/ 2\n");
  CHECK(only(seen, Kind::kCompleted, 0).time == end);
  // What hangs goes on hanging, also when its communicator is aborted.
  nccl.close(c);
  CHECK(count_of(trace.read(), Kind::kCompleted) == 0);
}

TEST_CASE("trap: no room: dropped and counted, and numbers go on") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x39, 2, 0);
  const uint64_t before = Profiler::get().losses().dropped;
  void* coll = nullptr;
  for (int i = 0; i < 1500; ++i) {
    void* call = nccl.call(c, kAllReduce, 1);
    void* told = nccl.collective(c, call, kAllReduce, 1);
    nccl.stop(call);
    if (coll == nullptr) coll = told;
  }
  const size_t issued = count_of(trace.read(), Kind::kIssued);
  CHECK(issued == 1024);
  CHECK(Profiler::get().losses().dropped == before + 1500 - issued);
  nccl.end_kernel(nccl.kernel(c, coll, 0, gpu_now()), gpu_now());
  // One by one, places come free.
  uint32_t next = 0;
  for (int i = 0; i < 1024 && next == 0; ++i) {
    nccl.call(c, kAllReduce, 1);
    const auto seen = trace.read();
    if (count_of(seen, Kind::kIssued) == 1) next = only(seen, Kind::kIssued).sequence;
  }
  CHECK(next > 1500);
}

TEST_CASE("trap: proxies without room, and proxies that never end") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x3a, 2, 0);
  const uint64_t before = Profiler::get().losses().dropped;
  int refused = 0;
  for (int i = 0; i < 5000; ++i) refused += nccl.proxy(c, nullptr, 1, i % 16, true) == nullptr;
  CHECK(refused > 0);
  CHECK(Profiler::get().losses().dropped == before + static_cast<uint64_t>(refused));
  nccl.close(c);
  c = nccl.open(0x3b, 2, 0);
  CHECK(nccl.proxy(c, nullptr, 1, 0, true) != nullptr);
}

TEST_CASE("trap: communicators come and go, more than there is room for") {
  Trace trace;
  FakeNccl nccl;
  std::vector<void*> contexts;
  for (int round = 0; round < 3; ++round) {
    for (uint64_t i = 0; i < 150; ++i) contexts.push_back(nccl.open(0x1000 + i, 2, 0));
    for (void* c : contexts) nccl.stop(nccl.call(c, kAllReduce, 1));
    const auto seen = trace.read();
    CHECK(count_of(seen, Kind::kIssued) == 128);
    for (const Seen& r : seen) {
      if (r.kind == Kind::kIssued) CHECK(r.sequence == 1);
    }
    for (void* c : contexts) nccl.close(c);
    contexts.clear();
    (void)trace.read();
  }
}

TEST_CASE("trap: a child process has nothing to wait for") {
  Trace trace;
  FakeNccl nccl;
  void* c = nccl.open(0x3c, 2, 0);
  void* call = nccl.call(c, kAllReduce, 1);
  (void)trace.read();
  const pid_t child = ::fork();
  if (child == 0) {
    nccl.stop(call);
    (void)nccl.call(c, kAllReduce, 1);
    ::_exit(ncclProfiler_v6.finalize(c));
  }
  int status = 0;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(trace.read().empty());
}

// --- Everything at once.

// Calls of any kind with handles of any age. Each operation must still be issued, started and
// completed at most once.
void storm(FakeNccl& nccl, const std::vector<void*>& contexts, uint64_t seed, int calls) {
  std::mt19937_64 random(seed);
  std::vector<void*> handles(64);
  const char* const functions[] = {kAllReduce, "AllGather", "Broadcast", "Send",
                                   "Recv",     "?",         nullptr};
  const auto any = [&]() -> void* {
    if (random() % 50 == 0) return reinterpret_cast<void*>(random());
    return handles[random() % handles.size()];
  };
  for (int i = 0; i < calls; ++i) {
    void* c = random() % 40 == 0 ? reinterpret_cast<void*>(random())
                                 : contexts[random() % contexts.size()];
    const char* function = functions[random() % 7];
    const auto timer = random() % 4 == 0 ? random() : gpu_now();
    void*& to = handles[random() % handles.size()];
    switch (random() % 12) {
      case 0:
        to = nccl.call(c, function, random() % 100, "ncclFloat16",
                       static_cast<int>(random() % 9) - 4, random() % 8 == 0);
        break;
      case 1:
        to = nccl.collective(c, any(), function, random() % 100,
                             static_cast<uint8_t>(random() % 70));
        break;
      case 2:
        to =
            nccl.message(c, any(), function, static_cast<int>(random() % 9) - 2, random() % 100, 1);
        break;
      case 3:
      case 4:
        to = nccl.kernel(c, any(), static_cast<int>(random() % 66), timer);
        break;
      case 5:
        to = nccl.proxy(c, any(), static_cast<int>(random() % 9) - 2,
                        static_cast<int>(random() % 66), random() % 2 == 0,
                        random() % 3 == 0 ? 1 : 0);
        break;
      case 6:
        to = nccl.step(c, any(), static_cast<int>(random() % 20) - 2);
        break;
      case 7:
      case 8:
        nccl.state(any(), static_cast<int>(random() % 32),
                   random() % 2 == 0 ? timer : random() % 100000);
        break;
      default:
        nccl.stop(any());
    }
  }
}

void check_each_once(const std::vector<Seen>& records) {
  std::map<std::string, int> seen;
  for (const Seen& r : records) {
    if (r.kind < Kind::kIssued) continue;
    ++seen[std::to_string(static_cast<int>(r.kind)) + r.group + r.name + "#" +
           std::to_string(r.sequence) + "#" + std::to_string(r.extra)];
  }
  CHECK(!seen.empty());
  for (const auto& [what, count] : seen) {
    INFO(what);
    CHECK(count == 1);
  }
}

TEST_CASE("random calls: nothing breaks, and nothing is told twice") {
  Trace trace;
  FakeNccl nccl;
  std::vector<Seen> all;
  const std::vector<void*> contexts = {nccl.open(0x60, 4, 0), nccl.open(0x61, 7, 3)};
  for (uint64_t seed = 1; seed <= 20; ++seed) {
    storm(nccl, contexts, seed, 3000);
    Profiler::get().keep();
    const auto some = trace.read();
    all.insert(all.end(), some.begin(), some.end());
  }
  check_each_once(all);
}

TEST_CASE("random calls from several threads, while communicators come and go and levels change") {
  Trace trace;
  FakeNccl nccl;
  std::vector<void*> contexts = {nccl.open(0x62, 4, 0), nccl.open(0x63, 7, 3)};
  contexts.push_back(reinterpret_cast<void*>(UINT64_MAX));
  std::vector<std::thread> threads;
  for (uint64_t t = 0; t < 3; ++t) {
    threads.emplace_back([&, t] { storm(nccl, contexts, 100 + t, 20000); });
  }
  FakeNccl other;
  for (int i = 0; i < 30; ++i) {
    void* c = other.open(0x70, 2 + i, 0);
    other.run(c, kAllReduce, 1);
    trace.segment->set_level(static_cast<Level>(i % 4));
    Profiler::get().keep();
    other.close(c);
  }
  for (std::thread& thread : threads) thread.join();
  trace.segment->set_level(Level::kDetails);
  (void)trace.read();
  void* c = nccl.open(0x64, 2, 0);
  nccl.run(c, kAllReduce, 1);
  CHECK(count_of(trace.read(), Kind::kCompleted) == 1);
}

}  // namespace
}  // namespace convoy::trace::nccl
