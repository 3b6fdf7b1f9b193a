// The whole way with real processes: ranks that are forked before gRPC has threads here begin to
// record, run, and are killed; a Collector finds them and an Aggregator writes down what comes.
#include "tests/exit_rank.h"
#include <convoy/trace/aggregator.h>
#include <convoy/trace/collector.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/recorder.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <csignal>
#include <functional>
#include <map>
#include <mutex>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::trace {
namespace {

using namespace std::chrono_literals;
constexpr uint32_t kRanks = 4;
constexpr uint32_t kOperations = 3000;

struct Notes : Sink {
  std::mutex mutex;
  JobInfo last_job;
  std::map<uint32_t, std::vector<Operation>> operations;
  std::map<uint32_t, RankState> states;
  std::map<uint32_t, int> pids;
  void job(const JobInfo& job) override {
    const std::lock_guard lock(mutex);
    last_job = job;
  }
  void batch(const Batch& batch) override {
    const std::lock_guard lock(mutex);
    auto& list = operations[batch.rank];
    list.insert(list.end(), batch.operations.begin(), batch.operations.end());
    if (batch.state) states[batch.rank] = *batch.state;
    if (batch.pid != 0) pids[batch.rank] = batch.pid;
  }
  void clock(const ClockSample&) override {}
};

bool wait_for(const std::function<bool()>& what) {
  for (int i = 0; i < 6000; ++i) {
    if (what()) return true;
    std::this_thread::sleep_for(10ms);
  }
  return false;
}

std::unique_ptr<Aggregator> started(Registry& registry, Notes& notes) {
  AggregatorOptions options;
  options.host = "127.0.0.1";
  options.registry = &registry;
  options.sinks = {&notes};
  auto aggregator = Aggregator::start(options);
  REQUIRE(aggregator.ok());
  return std::move(aggregator).value();
}

CollectorOptions options_to(const Aggregator& aggregator) {
  CollectorOptions collect;
  collect.aggregator = "127.0.0.1:" + std::to_string(aggregator.port());
  collect.look_around = false;  // others' ranks may be running on this machine
  return collect;
}

// Waits for a byte, opens its recorder, and records operations, the last of which does not end.
[[noreturn]] void be_rank(uint32_t rank, int go) {
  ::signal(SIGTERM, SIG_DFL);  // not the test framework's
  char byte = 0;
  if (::read(go, &byte, 1) != 1) exit_rank(1);
  SegmentOptions options;
  options.rank = static_cast<int32_t>(rank);
  options.world_size = kRanks;
  options.generation = 2;
  if (!open_recorder(options).ok()) exit_rank(1);
  const uint16_t group = intern(group_text({"world", {0, 1, 2, 3}}));
  const uint16_t name = intern(operation_text({"all_reduce", "float32", "sum", false}));
  for (uint32_t i = 1; i <= kOperations; ++i) {
    Record r{.value = 64, .sequence = i, .name = name, .group = group, .kind = Kind::kIssued};
    record(Level::kCollectives, r);
    if (i == kOperations) break;
    r.kind = Kind::kCompleted;
    r.value = 0;
    record(Level::kCollectives, r);
    if (i % 100 == 0) ::usleep(1000);
  }
  if (rank == 0) exit_rank(3);
  for (;;) ::pause();
}

TEST_CASE("ranks are found, drained while they run, and told how they died") {
  std::vector<pid_t> pids;
  int go[2] = {-1, -1};
  REQUIRE(::pipe(go) == 0);
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    pids.push_back(::fork());
    if (pids.back() == 0) be_rank(rank, go[0]);
  }
  Registry registry;
  Notes notes;
  const auto aggregator = started(registry, notes);
  CollectorOptions collect = options_to(*aggregator);
  collect.period = 20ms;
  collect.host = "this host";
  auto collector = Collector::start(collect);
  REQUIRE(collector.ok());
  for (const pid_t pid : pids) (*collector)->watch(pid);
  REQUIRE(::write(go[1], "gogo", kRanks) == kRanks);

  const auto state = [&](uint32_t rank) {
    const std::lock_guard lock(notes.mutex);
    return notes.states[rank];
  };
  REQUIRE(wait_for([&] { return state(0).life == Life::kExited; }));
  for (uint32_t rank = 1; rank < kRanks; ++rank) {
    REQUIRE(wait_for([&] {
      const RankState s = state(rank);
      return !s.progress.empty() && s.progress[0].issued == kOperations;
    }));
  }
  CHECK(state(1).life == Life::kRunning);
  ::kill(pids[1], SIGSTOP);
  CHECK(wait_for([&] { return state(1).life == Life::kStopped; }));
  ::kill(pids[2], SIGKILL);
  CHECK(wait_for([&] { return state(2).life == Life::kKilled; }));
  ::kill(pids[1], SIGKILL);
  ::kill(pids[3], SIGTERM);
  CHECK(wait_for([&] { return state(3).life == Life::kKilled && state(1).life == Life::kKilled; }));
  CHECK(state(2).exit_code == SIGKILL);
  CHECK(state(3).exit_code == SIGTERM);
  CHECK((state(0).exit_code == 3 || state(0).exit_code == 98));
  for (const pid_t pid : pids) ::waitpid(pid, nullptr, 0);
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    const std::lock_guard lock(notes.mutex);
    const RankState& s = notes.states[rank];
    CHECK(s.lost == 0);
    CHECK(s.shed == 0);
    REQUIRE(s.pending.size() == 1);
    CHECK(s.pending[0].sequence == kOperations);
    CHECK(notes.pids[rank] == pids[rank]);
    std::vector<Operation>& got = notes.operations[rank];
    REQUIRE(got.size() == kOperations - 1);
    for (uint32_t i = 0; i < got.size(); ++i) CHECK(got[i].sequence == i + 1);
    CHECK(registry.signatures()[got[0].signature].operation == "all_reduce");
  }
  {
    const std::lock_guard lock(notes.mutex);
    CHECK(notes.last_job.world_size == kRanks);
    CHECK(notes.last_job.generation == 2);
  }
  CHECK(wait_for([&] { return (*collector)->stats().ranks == 0; }));
  CHECK((*collector)->stats().connected);
  ::close(go[0]);
  ::close(go[1]);
}

// A launcher watches what it has started, which may be a script, and knows how that ended.
TEST_CASE("what a watched process has started is found, and its parent's word counts") {
  int go[2] = {-1, -1};
  REQUIRE(::pipe(go) == 0);
  const pid_t script = ::fork();
  if (script == 0) {
    const pid_t rank = ::fork();
    if (rank == 0) be_rank(1, go[0]);
    ::waitpid(rank, nullptr, 0);
    exit_rank(0);
  }
  const pid_t direct = ::fork();
  if (direct == 0) be_rank(2, go[0]);
  Registry registry;
  Notes notes;
  const auto aggregator = started(registry, notes);
  CollectorOptions collect = options_to(*aggregator);
  collect.parent_tells = true;
  auto collector = Collector::start(collect);
  REQUIRE(collector.ok());
  (*collector)->watch(script);
  (*collector)->watch(direct);
  REQUIRE(::write(go[1], "go", 2) == 2);
  const auto state = [&](uint32_t rank) {
    const std::lock_guard lock(notes.mutex);
    return notes.states[rank];
  };
  REQUIRE(
      wait_for([&] { return state(1).life == Life::kRunning && state(2).life == Life::kRunning; }));
  const int64_t before = state(2).time;
  ::kill(direct, SIGKILL);
  (*collector)->ended(direct, 7 << 8, before + 1);  // what wait() gives for exit(7)
  CHECK(wait_for([&] { return state(2).life == Life::kExited && state(2).exit_code == 7; }));
  {
    const std::lock_guard lock(notes.mutex);
    ::kill(notes.pids[1], SIGKILL);
  }
  CHECK(wait_for([&] { return state(1).life == Life::kKilled; }));
  for (const pid_t pid : {script, direct}) ::waitpid(pid, nullptr, 0);
  ::close(go[0]);
  ::close(go[1]);
}

}  // namespace
}  // namespace convoy::trace
