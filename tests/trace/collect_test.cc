// From rings to batches, without sockets. Method: records are written into segments by hand (in
// the order, and over the rings, that a real process may choose) or by a forked process that is
// then killed, and what is drained is compared with what was done. The outbox is filled beyond its
// bound. Not checked here: what is sent (aggregator_test.cc).
#include "tests/exit_rank.h"
#include "trace/collect/outbox.h"
#include "trace/collect/rank_drain.h"
#include <convoy/trace/recorder.h>

#include <catch2/catch.hpp>

#include <csignal>
#include <random>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::trace {
namespace {

// A segment whose ticks are ns, and who writes into it.
class Scene {
 public:
  Scene(uint32_t rings, uint64_t records = 1024)
      : segment_(*Segment::create({.rings = rings,
                                   .ring_records = records,
                                   .rank = 3,
                                   .world_size = 8,
                                   .generation = 2})) {
    auto& header = segment_->header();
    for (uint64_t i = 0; i < 2; ++i) {
      for (auto& word : header.anchors[i]) word = i * 1000000000;
    }
    header.anchor_count = 2;
    writers_.resize(rings);
    for (uint32_t i = 0; i < rings; ++i) {
      writers_[i].aim(&layout::ring_of(header, i), layout::records_of(header, i), records - 1);
    }
  }
  uint16_t name(const std::string& text) {
    auto& header = segment_->header();
    for (uint16_t i = 1; i <= header.name_count; ++i) {
      if (segment_->name(i) == text) return i;
    }
    const uint32_t at = header.name_bytes, count = header.name_count;
    std::copy(text.begin(), text.end(), header.text.begin() + at);
    header.names[count] = {at, static_cast<uint32_t>(text.size())};
    header.name_bytes = at + static_cast<uint32_t>(text.size());
    header.name_count = count + 1;
    return static_cast<uint16_t>(count + 1);
  }
  void write(uint32_t ring, const Record& record) { writers_[ring].write(record); }
  void operation(uint32_t ring, Kind kind, uint64_t time, uint32_t sequence, uint64_t value = 0,
                 const std::string& what = "all_reduce/float32/sum", int other = -1) {
    write(ring, {time, value, sequence, static_cast<uint32_t>(other + 1), name(what),
                 name(group_text({"dp", {1, 3, 5, 7}})), kind});
  }
  const std::shared_ptr<Segment>& segment() const { return segment_; }

 private:
  std::shared_ptr<Segment> segment_;
  std::vector<detail::RingWriter> writers_;
};

TEST_CASE("an operation is joined from its records, whichever ring they are in") {
  Scene scene(2);
  Registry registry;
  RankDrain drain(scene.segment(), registry);
  // The completion lies in the ring that is read first; the issue comes a turn later.
  scene.operation(0, Kind::kCompleted, 3000, 1);
  Batch batch;
  drain.drain(batch);
  CHECK(batch.rank == 3);
  CHECK(batch.generation == 2);
  CHECK(batch.operations.empty());
  scene.operation(1, Kind::kIssued, 1000, 1, 4096);
  scene.operation(1, Kind::kStarted, 2000, 1);
  scene.operation(1, Kind::kIssued, 4000, 2, 4096);
  scene.operation(1, Kind::kIssued, 5000, 1, 77, "send/bfloat16/", 5);
  scene.operation(1, Kind::kCompleted, 9000, 1, 1500, "send/bfloat16/", 5);
  drain.drain(batch);
  REQUIRE(batch.operations.size() == 2);
  const Operation& reduce = batch.operations[0];
  CHECK(reduce.issued == 1000);
  CHECK(reduce.started == 2000);
  CHECK(reduce.completed == 3000);
  CHECK(reduce.sequence == 1);
  const Signature signature = registry.signatures()[reduce.signature];
  CHECK(signature == Signature{0, "all_reduce", "float32", "sum", -1, -1, 4096, false});
  CHECK(registry.groups()[0] == GroupInfo{"dp", {1, 3, 5, 7}});
  const Operation& send = batch.operations[1];
  CHECK(send == Operation{send.signature, 1, 5000, 7500, 9000});  // it knows how long it ran
  CHECK(registry.signatures()[send.signature] ==
        Signature{0, "send", "bfloat16", "", -1, 5, 77, false});
  RankState state;
  drain.fill_state(state);
  REQUIRE(state.progress.size() == 1);  // messages are not counted there
  CHECK(state.progress[0] == GroupProgress{0, 2, 1, 1});
  REQUIRE(state.pending.size() == 1);
  CHECK(state.pending[0].sequence == 2);
  CHECK(state.pending[0].issued == 4000);
}

TEST_CASE("what was overwritten leaves neither false operations nor operations without an end") {
  Scene scene(2, 64);
  Registry registry;
  RankDrain drain(scene.segment(), registry);
  Batch batch;
  scene.operation(0, Kind::kIssued, 100, 1, 8);
  drain.drain(batch);
  // Its completion is overwritten, as are most of the later ones.
  for (uint32_t i = 1; i <= 200; ++i) {
    if (i > 1) scene.operation(0, Kind::kIssued, i * 100, i, 8);
    scene.operation(1, Kind::kCompleted, i * 100 + 50, i);
  }
  for (int turn = 0; turn < 4; ++turn) drain.drain(batch);
  RankState state;
  drain.fill_state(state);
  CHECK(state.pending.empty());
  CHECK(state.progress[0].completed == 200);
  CHECK(state.lost > 250);
  CHECK(batch.operations.size() >= 60);
  for (const Operation& o : batch.operations) {
    CHECK(registry.signatures()[o.signature].bytes == 8);  // and never an unknown size
    CHECK(o.completed == o.sequence * 100 + 50);
  }
}

TEST_CASE("spans nest on each thread, and a thread that ends takes its open ones along") {
  Scene scene(1);
  Registry registry;
  RankDrain drain(scene.segment(), registry);
  const uint16_t step = scene.name("step"), forward = scene.name("forward");
  const auto put = [&](Kind kind, uint16_t name, uint64_t time, uint64_t value = 0) {
    scene.write(0, {time, value, 0, 0, name, 0, kind});
  };
  put(Kind::kEnd, forward, 5);  // of one that began before the ring's oldest
  put(Kind::kBegin, step, 10, 7);
  put(Kind::kBegin, forward, 20, 1);
  put(Kind::kEnd, forward, 30);
  put(Kind::kBegin, forward, 40, 2);
  scene.write(0, {45, 99, 0, 6, scene.name("link sent bytes"), 0, Kind::kCounter});
  Batch batch;
  drain.drain(batch);
  REQUIRE(batch.spans.size() == 1);
  CHECK(registry.names()[batch.spans[0].name] == "forward");
  CHECK(batch.spans[0] == SpanEvent{batch.spans[0].name, 0, 20, 30, 1});
  REQUIRE(batch.counters.size() == 1);
  CHECK(batch.counters[0] == CounterEvent{batch.counters[0].name, 5, 45, 99});
  RankState state;
  drain.fill_state(state);
  REQUIRE(state.open.size() == 2);
  CHECK(registry.names()[state.open[0].name] == "step");
  CHECK(state.open[1].value == 2);
  put(Kind::kThread, 0, 50, 1234);
  drain.drain(batch);
  drain.fill_state(state);
  CHECK(state.open.empty());
  CHECK(batch.spans.size() == 1);
}

TEST_CASE("a segment of noise is drained in bounded memory") {
  std::mt19937_64 random(11);
  Scene scene(4, 1 << 12);
  Registry registry;
  RankDrain drain(scene.segment(), registry);
  for (int round = 0; round < 20; ++round) {
    for (int i = 0; i < 10000; ++i) {
      scene.write(static_cast<uint32_t>(random() % 4),
                  {random(), random(), static_cast<uint32_t>(random()),
                   static_cast<uint32_t>(random()), static_cast<uint16_t>(random()),
                   static_cast<uint16_t>(random()), static_cast<Kind>(random() % 12)});
    }
    Batch batch;
    for (int i = 0; i < 50 && drain.drain(batch); ++i) {
    }
    RankState state;
    drain.fill_state(state);
    CHECK(state.pending.size() <= 64);
  }
  CHECK(registry.groups().size() < 10);  // no name is known: one unknown group
}

TEST_CASE("a process that was killed is read to its last record, and how it ended is seen") {
  int ends[2] = {-1, -1};
  REQUIRE(::pipe(ends) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool open = open_recorder({.rank = 1, .world_size = 2}, Level::kDetails).ok();
    const uint16_t group = intern(group_text({"all", {0, 1}}));
    const uint16_t name = intern("all_reduce/float32/sum");
    for (uint32_t i = 1; open && i <= 100; ++i) {
      const Record record{.value = 64, .sequence = i, .name = name, .group = group};
      for (const Kind kind : {Kind::kIssued, Kind::kCompleted}) {
        if (i == 100 && kind == Kind::kCompleted) break;
        Record r = record;
        r.kind = kind;
        r.value = kind == Kind::kIssued ? 64 : 0;
        trace::record(Level::kCollectives, r);
      }
    }
    [[maybe_unused]] const auto written = ::write(ends[1], "x", 1);
    for (;;) ::pause();
  }
  char ready = 0;
  REQUIRE(::read(ends[0], &ready, 1) == 1);
  const auto segment = segment_of(pid);
  REQUIRE(segment != nullptr);
  CHECK(std::ranges::count(all_processes(), pid) == 1);
  ProcessWatch watch(pid);
  int32_t code = 0;
  CHECK(watch.look(code) == Life::kRunning);
  ::kill(pid, SIGSTOP);
  while (watch.look(code) == Life::kRunning) ::usleep(1000);
  CHECK(watch.look(code) == Life::kStopped);
  ::kill(pid, SIGKILL);
  const auto dies = [&](Life life) {  // runs once more until the kernel has taken it down
    return life == Life::kStopped || life == Life::kRunning || life == Life::kBlocked;
  };
  while (dies(watch.look(code))) ::usleep(1000);
  CHECK(watch.look(code) == Life::kKilled);  // a zombie
  CHECK(code == SIGKILL);
  ::waitpid(pid, nullptr, 0);
  CHECK(watch.look(code) == Life::kKilled);  // nothing of it is left
  CHECK(code == SIGKILL);
  CHECK(segment_of(pid) == nullptr);
  Registry registry;
  RankDrain drain(segment, registry);
  Batch batch;
  CHECK(!drain.drain(batch));
  CHECK(batch.operations.size() == 99);
  for (const Operation& o : batch.operations) CHECK(o.completed >= o.issued);
  RankState state;
  drain.fill_state(state);
  REQUIRE(state.pending.size() == 1);
  CHECK(state.pending[0].sequence == 100);
  ::close(ends[0]);
  ::close(ends[1]);
}

TEST_CASE("an exit code is seen also by who is not the parent, and a stranger's number is not") {
  const pid_t pid = ::fork();
  if (pid == 0) {
    ::usleep(20000);
    ::_exit(7);
  }
  ProcessWatch watch(pid);
  siginfo_t info{};
  ::waitid(P_PID, static_cast<id_t>(pid), &info, WEXITED | WNOWAIT);
  int32_t code = 0;
  CHECK(watch.look(code) == Life::kExited);
  CHECK(code == 7);
  ::waitpid(pid, nullptr, 0);
  ProcessWatch late(pid);  // nobody can know
  CHECK(late.look(code) == Life::kExited);
  CHECK(code == -1);
}

// --- The outbox.

Batch filled(Registry& registry, uint32_t rank, uint64_t step) {
  Batch batch;
  batch.rank = rank;
  batch.operations.resize(100);
  const auto span = [&](const char* name) { return SpanEvent{registry.name(name), 0, 1, 2, step}; };
  for (int i = 0; i < 50; ++i) batch.spans.push_back(span("forward"));
  for (int i = 0; i < 50; ++i) batch.spans.push_back(span("my own detail"));
  for (int i = 0; i < 50; ++i) batch.counters.push_back({registry.name("page faults"), -1, 1, 1});
  batch.state.emplace().time = static_cast<int64_t>(step);
  return batch;
}

TEST_CASE("without room the deepest level goes first, states never, and all that went is counted") {
  Registry registry;
  Outbox outbox(registry, 1 << 20);
  uint64_t pushed = 0;
  std::array<uint64_t, kShedLevels> last{};
  for (uint64_t step = 1; step <= 2000; ++step) {
    for (uint32_t rank = 0; rank < 4; ++rank) {
      outbox.push(filled(registry, rank, step));
      pushed += 250;
    }
    const auto shed = outbox.shed();
    CHECK(outbox.bytes() <= (1 << 20));
    if (shed[1] > 0 && last[1] == 0) CHECK(shed[0] > 0);
    if (shed[2] > 0 && last[2] == 0) CHECK(shed[1] > 0);
    last = shed;
  }
  CHECK(last[2] > 0);
  uint64_t left = 0, told = 0;
  std::map<uint32_t, int64_t> newest;
  std::map<uint32_t, uint64_t> number, shed_of;
  while (outbox.has_next()) {
    const Batch& batch = outbox.next(1);
    left += batch.operations.size() + batch.spans.size() + batch.counters.size();
    CHECK(batch.number == ++number[batch.rank]);
    if (!batch.state) continue;
    newest[batch.rank] = batch.state->time;
    shed_of[batch.rank] = batch.state->shed;
  }
  for (const auto& [rank, shed] : shed_of) told += shed;
  CHECK(left + last[0] + last[1] + last[2] == pushed);
  CHECK(told == last[0] + last[1] + last[2]);
  for (uint32_t rank = 0; rank < 4; ++rank) CHECK(newest[rank] == 2000);
  outbox.acknowledge(1);
  CHECK(outbox.empty());
  CHECK(outbox.bytes() == 0);
}

TEST_CASE("what is not acknowledged leaves again, with the same numbers") {
  Registry registry;
  Outbox outbox(registry, 1 << 20);
  for (uint64_t step = 1; step <= 3; ++step) {
    outbox.push(filled(registry, 0, step));
    CHECK(outbox.next(step).number == step);
  }
  CHECK(!outbox.has_next());
  outbox.push(filled(registry, 0, 4));
  outbox.push(filled(registry, 0, 5));  // joins the one that waits
  outbox.acknowledge(1);
  outbox.restart();
  std::vector<uint64_t> numbers;
  while (outbox.has_next()) numbers.push_back(outbox.next(10 + numbers.size()).number);
  CHECK(numbers == std::vector<uint64_t>{2, 3, 4});
  outbox.give_up(10);
  outbox.restart();
  CHECK(outbox.next(20).operations.empty());
  CHECK(outbox.shed()[2] == 100 + 1);  // and the last of each counter
  CHECK(outbox.next(21).operations.size() == 100);
  CHECK(outbox.next(22).operations.size() == 200);
  outbox.acknowledge(22);
  CHECK(outbox.bytes() == 0);
}

}  // namespace
}  // namespace convoy::trace
