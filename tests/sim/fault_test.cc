// Each fault as its traces show it: who waits where, what is told last. The events only, through
// the same eyes as the analysis; hand-written expectations, not the simulator's own numbers.
#include "tests/sim/recording.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <numeric>
#include <optional>

using namespace convoy;
using namespace convoy::sim;
using trace::Class;

namespace {

struct Told {
  trace::Registry registry;
  Recording recording;
  Outcome outcome;

  uint32_t name(const char* n) const { return registry.find_name(n).value_or(UINT32_MAX); }

  // The mean duration of a rank's spans of a name, in ms, from a step on.
  double mean_ms(uint32_t rank, const char* span) const {
    double sum = 0;
    size_t count = 0;
    for (const trace::Batch& b : recording.batches) {
      if (b.rank != rank) continue;
      for (const trace::SpanEvent& s : b.spans) {
        if (s.name != name(span)) continue;
        sum += static_cast<double>(s.end - s.begin) * 1e-6;
        ++count;
      }
    }
    return count == 0 ? 0 : sum / static_cast<double>(count);
  }
  double longest_ms(uint32_t rank, const char* span) const {
    int64_t longest = 0;
    for (const trace::Batch& b : recording.batches) {
      for (const trace::SpanEvent& s : b.spans) {
        if (b.rank == rank && s.name == name(span)) longest = std::max(longest, s.end - s.begin);
      }
    }
    return static_cast<double>(longest) * 1e-6;
  }
  uint64_t counter(uint32_t rank, const char* counter, int peer) const {
    uint64_t value = 0;
    for (const trace::Batch& b : recording.batches) {
      for (const trace::CounterEvent& c : b.counters) {
        if (b.rank == rank && c.name == name(counter) && c.peer == peer) value = c.value;
      }
    }
    return value;
  }
  const trace::RankState& last(uint32_t rank) const {
    const trace::RankState* state = nullptr;
    for (const trace::Batch& b : recording.batches) {
      if (b.rank == rank && b.state) state = &*b.state;
    }
    REQUIRE(state != nullptr);
    return *state;
  }
  int64_t last_received(uint32_t rank) const {
    int64_t at = 0;
    for (const trace::Batch& b : recording.batches) {
      if (b.rank == rank) at = std::max(at, b.received);
    }
    return at;
  }
  const trace::GroupProgress* progress(uint32_t rank, const std::string& prefix) const {
    for (const trace::GroupProgress& p : last(rank).progress) {
      if (registry.groups()[p.group].name.rfind(prefix, 0) == 0) return &p;
    }
    return nullptr;
  }
};

Cluster cluster(const char* mesh) {
  Cluster c;
  c.mesh = mesh;
  c.steps = 20;
  c.model.hidden = 4096;
  c.model.layers = 16;
  c.model.micro_batches = 4;
  c.telemetry.late_share = 0;
  c.after_hang_s = 6;
  c.network.hosts_per_leaf = 1;
  return c;
}

void tell(const Cluster& c, Told& told) {
  const auto outcome = simulate(c, told.registry, told.recording);
  REQUIRE(outcome.status().to_string() == "ok");
  told.outcome = *outcome;
}

void tell(const char* mesh, const Fault& fault, Told& told) {
  Cluster c = cluster(mesh);
  c.checkpoint_every = 5;
  c.faults = {fault};
  tell(c, told);
  REQUIRE(told.outcome.truths.size() == 1);
  CHECK(told.outcome.truths[0].cls == fault.cls);
}

}  // namespace

TEST_CASE("a slow rank computes longer, and its peers wait for it") {
  Told t;
  tell("tp=4,dp=4", {.cls = Class::kSlowCompute, .rank = 5, .factor = 1.5, .from = 1}, t);
  CHECK(t.outcome.truths[0].culprit.ranks == std::vector<uint32_t>{5});
  CHECK(t.mean_ms(5, trace::names::kKernel) > 1.35 * t.mean_ms(6, trace::names::kKernel));
  CHECK(t.mean_ms(5, trace::names::kForward) < 1.1 * t.mean_ms(6, trace::names::kForward));
}

TEST_CASE("a host that launches too slowly computes no longer, but later") {
  Told t;
  tell("dp=8", {.cls = Class::kHostLaunchBound, .rank = 3, .factor = 4, .from = 1}, t);
  CHECK(t.mean_ms(3, trace::names::kKernel) < 1.1 * t.mean_ms(4, trace::names::kKernel));
  CHECK(t.mean_ms(3, trace::names::kLaunch) > 3 * t.mean_ms(4, trace::names::kLaunch));
  CHECK(t.mean_ms(3, trace::names::kForward) > 1.2 * t.mean_ms(4, trace::names::kForward));
  CHECK(t.counter(3, trace::names::kRunQueue, -1) > 10 * t.counter(4, trace::names::kRunQueue, -1));
}

TEST_CASE("of a slow link only the sender waits for the wire, and what is behind it starves") {
  Told t;
  tell("tp=8,dp=4", {.cls = Class::kSlowLink, .rank = 11, .peer = 19, .factor = 5, .from = 1}, t);
  const uint64_t wire = t.counter(11, trace::names::kSendWait, 19);
  CHECK(wire > 2 * t.counter(19, trace::names::kSendWait, 27));
  CHECK(wire > 2 * t.counter(12, trace::names::kSendWait, 20));
  CHECK(t.counter(19, trace::names::kReceiveWait, 11) >
        2 * t.counter(20, trace::names::kReceiveWait, 12));
  CHECK(t.counter(11, trace::names::kRoundTrip, 19) >
        2 * t.counter(12, trace::names::kRoundTrip, 20));
}

TEST_CASE("a link that is slow can be one of a pipeline") {
  Told slow, healthy;
  Cluster c = cluster("pp=4,dp=8");
  tell(c, healthy);
  tell("pp=4,dp=8", {.cls = Class::kSlowLink, .rank = 9, .factor = 30, .from = 1}, slow);
  CHECK(slow.outcome.truths[0].culprit.links ==
        std::vector<std::pair<uint32_t, uint32_t>>{{9, 17}});
  CHECK(slow.mean_ms(17, trace::names::kAwaitStage) >
        1.2 * healthy.mean_ms(17, trace::names::kAwaitStage));
}

TEST_CASE("stalls lie in the spans that they belong to") {
  Told loader, storage, save, pause, warm;
  tell("tp=2,dp=4", {.cls = Class::kDataLoaderStall, .rank = 2, .seconds = 0.3, .from = 2}, loader);
  CHECK(loader.longest_ms(2, trace::names::kData) > 290);
  CHECK(loader.longest_ms(3, trace::names::kData) < 50);
  tell("tp=2,dp=4", {.cls = Class::kStorageStall, .seconds = 0.3, .from = 2}, storage);
  for (uint32_t r = 0; r < 8; ++r) CHECK(storage.longest_ms(r, trace::names::kData) > 290);
  tell("tp=2,dp=4", {.cls = Class::kCheckpointStall, .seconds = 2, .from = 2}, save);
  CHECK(save.longest_ms(0, trace::names::kCheckpoint) > 2000);
  CHECK(save.longest_ms(1, trace::names::kCheckpoint) > 2000);  // at the barrier
  tell("tp=2,dp=4", {.cls = Class::kHostPause, .from = 1, .every = 5}, pause);
  size_t paused = 0;
  for (uint32_t r = 0; r < 8; ++r) paused += pause.longest_ms(r, trace::names::kGarbage) > 290;
  CHECK(paused > 3);
  tell("tp=2,dp=4", {.cls = Class::kWarmUp, .until = 4}, warm);
  CHECK(warm.longest_ms(0, trace::names::kWarmUp) > 50);
}

TEST_CASE("after a hang heartbeats go on, and victims wait where the dependencies leave them") {
  Told t;
  tell("tp=4,dp=4", {.cls = Class::kHostHang, .rank = 6, .from = 8}, t);
  REQUIRE(t.outcome.hung);
  for (uint32_t r = 0; r < 16; ++r) {
    CHECK(t.outcome.end - t.last_received(r) < 2'000'000'000);
    CHECK(!t.last(r).open.empty());
  }
  // In its tp group all but the culprit have issued the next collective.
  const trace::GroupProgress* culprit = t.progress(6, "tp");
  for (const uint32_t r : {4U, 5U, 7U}) {
    CHECK(t.progress(r, "tp")->issued > culprit->issued);
    CHECK(t.progress(r, "tp")->completed == culprit->completed);
    CHECK(!t.last(r).pending.empty());
  }
  CHECK(culprit->issued == culprit->completed);
}

TEST_CASE("a device that stands still: issued, not started; others have started") {
  Told t;
  tell("tp=4,dp=4", {.cls = Class::kGpuStuck, .rank = 6, .from = 8}, t);
  REQUIRE(t.outcome.hung);
  const auto* culprit = t.progress(6, "tp");
  const auto* data = t.progress(6, "dp");
  CHECK((culprit->issued > culprit->started || data->issued > data->started));
  CHECK(culprit->started == culprit->completed);
}

TEST_CASE("the network breaks: all have started, none completes, one sender waits for the wire") {
  Told t;
  tell("tp=8,dp=4", {.cls = Class::kNetHang, .rank = 10, .peer = 18, .from = 8}, t);
  REQUIRE(t.outcome.hung);
  uint32_t completed = 0;
  for (const uint32_t r : {2U, 10U, 18U, 26U}) {
    const auto* p = t.progress(r, "dp");
    CHECK(p->started > p->completed);
    if (completed == 0) completed = p->completed;
    CHECK(p->completed == completed);
  }
  CHECK(t.counter(10, trace::names::kSendWait, 18) > 4'000'000'000);
  CHECK(t.counter(18, trace::names::kSendWait, 26) < 4'000'000'000);
  CHECK(t.counter(10, trace::names::kSentBytes, 18) >
        t.counter(18, trace::names::kReceivedBytes, 10));
  Told pipeline;
  tell("pp=8,dp=2", {.cls = Class::kNetHang, .rank = 7, .peer = 9, .from = 8}, pipeline);
  CHECK(pipeline.outcome.hung);
}

TEST_CASE("a crash is told by the agent; a host that dies says nothing") {
  Told rank, host;
  tell("tp=4,dp=4", {.cls = Class::kCrash, .rank = 6, .from = 8}, rank);
  REQUIRE(rank.outcome.hung);
  CHECK(rank.last(6).life == trace::Life::kKilled);
  CHECK(rank.outcome.end - rank.last_received(6) > 4'000'000'000);
  CHECK(rank.last(5).life == trace::Life::kRunning);
  tell("tp=4,dp=4", {.cls = Class::kCrash, .rank = 9, .from = 8, .whole_host = true}, host);
  CHECK(host.outcome.truths[0].culprit.hosts == std::vector<std::string>{"node0001"});
  for (uint32_t r = 0; r < 16; ++r) {
    CHECK(host.last(r).life == trace::Life::kRunning);
    CHECK((host.outcome.end - host.last_received(r) > 4'000'000'000) == (r >= 8));
  }
}

TEST_CASE("wrong calls are told as they were made, and hang where they must") {
  const struct {
    Class cls;
    bool hangs;
  } kCases[] = {{Class::kMismatchSize, true},    {Class::kMismatchDtype, false},
                {Class::kMismatchRoot, true},    {Class::kMismatchReduction, false},
                {Class::kDesyncOrder, true},     {Class::kMissingCall, true},
                {Class::kNotJoined, true},       {Class::kDeadlockCycle, true},
                {Class::kMessageUnmatched, true}};
  for (const auto& [cls, hangs] : kCases) {
    CAPTURE(fault_name(cls));
    Told t;
    tell("tp=4,pp=2,dp=4", {.cls = cls, .from = cls == Class::kNotJoined ? 1U : 6U}, t);
    CHECK(t.outcome.hung == hangs);
    if (!hangs) CHECK(t.outcome.step_ends.size() == 20);
  }
}

TEST_CASE("ranks in a deadlock wait in two groups each way") {
  Told t;
  tell("tp=4,dp=4", {.cls = Class::kDeadlockCycle, .rank = 1, .from = 6}, t);
  const trace::Culprit& c = t.outcome.truths[0].culprit;
  REQUIRE(c.ranks.size() == 4);
  REQUIRE(c.groups.size() == 4);
  for (size_t i = 0; i < 4; ++i) {
    // Each waits in its group for the next.
    const auto& pending = t.last(c.ranks[i]).pending;
    REQUIRE(!pending.empty());
    CHECK(t.registry.signatures()[pending[0].signature].group == c.groups[i]);
    const auto& members = t.registry.groups()[c.groups[i]].ranks;
    CHECK(std::count(members.begin(), members.end(), c.ranks[(i + 1) % 4]) == 1);
  }
}

TEST_CASE("a stream that stops stops nothing else; a clock steps for its host alone") {
  Told loss, step;
  tell("tp=4,dp=4", {.cls = Class::kTelemetryLoss, .rank = 3, .from = 8}, loss);
  CHECK_FALSE(loss.outcome.hung);
  CHECK(loss.last_received(3) < loss.last_received(4) - 1'000'000'000);
  Cluster c = cluster("dp=16");
  c.clocks = {.uptimes = false, .offset_ms = 0, .drift_us_per_s = 0, .sample_period_s = 0.5};
  c.faults = {{.cls = Class::kClockStep, .host = 1, .seconds = 0.05, .from = 10}};
  tell(c, step);
  for (const trace::ClockSample& s : step.recording.samples) {
    const bool after = s.root_time > step.outcome.truths[0].onset && s.host == "node0001";
    const int64_t off = s.host_time - s.root_time - (after ? 50'000'000 : 0);
    CHECK(std::abs(off) <= s.error);
  }
}

TEST_CASE("a job that is resized goes on as another generation") {
  Cluster c = cluster("tp=4,dp=4");
  c.resize_at = 10;
  c.resize_mesh = "tp=4,dp=3";
  Told t;
  tell(c, t);
  REQUIRE(t.recording.jobs.size() == 2);
  CHECK(t.recording.jobs[1].generation == 2);
  CHECK(t.recording.jobs[1].world_size == 12);
  CHECK(t.outcome.step_ends.size() == 20);
  CHECK(t.outcome.truths.empty());
}
