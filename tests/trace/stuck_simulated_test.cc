// Each class of what is wrong or stuck, and legitimate changes, in a simulated cluster: the verdict
// names class and culprit, and nothing else is told. Accuracy over many runs is measured by a
// benchmark; here is one run for each pair of class and layout.
#include <convoy/sim/cluster.h>
#include <convoy/trace/diagnose.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <string>
#include <vector>

using namespace convoy;
using namespace convoy::trace;

namespace {

struct Live : Sink {
  explicit Live(Registry& r) : diagnoser(r) {}
  void look(int64_t now) {
    for (Verdict& v : diagnoser.diagnose(now)) told.push_back(std::move(v));
  }
  void job(const JobInfo& j) override { diagnoser.job(j); }
  void clock(const ClockSample& s) override { diagnoser.clock(s); }
  void batch(const Batch& b) override {
    if (next == 0) next = b.received;
    for (; next <= b.received; next += 250'000'000) look(next);
    diagnoser.batch(b);
  }
  Diagnoser diagnoser;
  std::vector<Verdict> told;  // each time that something was new or had changed
  int64_t next = 0;
};

sim::Cluster cluster(const char* mesh) {
  sim::Cluster c;
  c.mesh = mesh;
  c.steps = 25;
  c.ranks_per_host = 4;
  c.model.layers = 16;
  c.model.micro_batches = 4;
  return c;
}

bool is_of_this_test(Class c) {
  return c == Class::kUnknown || (c >= Class::kDesyncOrder && c <= Class::kMessageUnmatched) ||
         c == Class::kTelemetryLoss || c == Class::kClockStep;
}

std::vector<Verdict> run(const sim::Cluster& c, sim::Outcome& outcome) {
  Registry registry;
  Live live(registry);
  const auto result = sim::simulate(c, registry, live);
  REQUIRE(result.status().to_string() == "ok");
  outcome = *result;
  live.diagnoser.diagnose(outcome.end);
  std::vector<Verdict> found = live.diagnoser.verdicts();
  std::erase_if(found, [](const Verdict& v) { return !is_of_this_test(v.cls); });
  return found;
}

void check_nothing_told(const sim::Cluster& c) {
  sim::Outcome outcome;
  const std::vector<Verdict> found = run(c, outcome);
  for (const Verdict& v : found) UNSCOPED_INFO(v.summary);
  CHECK(found.empty());
}

Culprit sorted(Culprit c) {
  std::sort(c.ranks.begin(), c.ranks.end());
  std::sort(c.groups.begin(), c.groups.end());
  return c;
}

struct Case {
  const char* mesh;
  const char* fault;
};
const Case kCases[] = {{"tp=4,dp=4", "crash"},
                       {"tp=2,pp=4,dp=2", "crash"},
                       {"tp=4,dp=4", "host_hang"},
                       {"pp=2,dp=8", "host_hang"},
                       {"tp=4,dp=4", "gpu_stuck"},
                       {"ep=4,dp=4,pp=2", "gpu_stuck"},
                       {"dp=8", "net_hang"},
                       {"tp=4,dp=4", "net_hang"},
                       {"cp=2,tp=2,dp=4", "not_joined"},
                       {"tp=4,dp=4", "missing_call"},
                       {"dp=8", "missing_call"},
                       {"ep=4,dp=4,pp=2", "missing_call"},
                       {"tp=8,dp=4", "desync_order"},
                       {"tp=4,dp=4", "deadlock_cycle"},
                       {"pp=2,dp=8", "deadlock_cycle"},
                       {"tp=2,pp=4,dp=2", "p2p_unmatched"},
                       {"tp=4,dp=4", "mismatch_size"},
                       {"pp=2,dp=8", "mismatch_dtype"},
                       {"tp=4,dp=4", "mismatch_root"},
                       {"tp=4,dp=4", "mismatch_op"},
                       {"dp=8", "telemetry_loss"},
                       {"tp=4,dp=4", "clock_step"}};

}  // namespace

TEST_CASE("what is wrong or stuck is told with its culprit, and alone") {
  const Case given = GENERATE(from_range(std::begin(kCases), std::end(kCases)));
  CAPTURE(given.mesh, given.fault);
  sim::Cluster c = cluster(given.mesh);
  c.seed = 4;
  auto fault = sim::parse_fault(given.fault);
  REQUIRE(fault.status().to_string() == "ok");
  c.faults.push_back(*fault);
  sim::Outcome outcome;
  const std::vector<Verdict> found = run(c, outcome);
  REQUIRE(outcome.truths.size() == 1);
  REQUIRE(found.size() == 1);
  CHECK(std::string(name_of(found[0].cls)) == name_of(outcome.truths[0].cls));
  CHECK(sorted(found[0].culprit) == sorted(outcome.truths[0].culprit));
  CHECK_FALSE(found[0].evidence.empty());
  CHECK(found[0].cleared == 0);
}

TEST_CASE("legitimate changes, lost and late events are no reason for a verdict") {
  const int which = GENERATE(range(0, 7));
  CAPTURE(which);
  sim::Cluster c = cluster(which % 2 == 0 ? "tp=2,pp=4,dp=2" : "tp=4,dp=4");
  c.seed = 20 + static_cast<uint64_t>(which);
  if (which == 1) c.evaluate_every = 7;
  if (which == 2) c.checkpoint_every = 6, c.model.checkpoint_s = 8;
  if (which == 3) c.more_work_from = 12;
  if (which == 4) c.resize_at = 12, c.resize_mesh = "tp=4,dp=4";
  if (which == 5) c.telemetry.loss = 0.01;
  if (which == 6) c.telemetry.late_share = 0.05, c.compute_jitter = 0.15;
  check_nothing_told(c);
}

TEST_CASE("steps of ten seconds: nobody is stuck who waits for a second, nor a GPU that works") {
  sim::Cluster c = cluster("tp=4,cp=2,dp=8");
  c.seed = 691764;
  c.steps = 36;
  c.ranks_per_host = 8;
  c.model = {.layers = 64, .hidden = 8192, .sequence = 4096, .micro_batches = 16};
  c.compute_jitter = 0.1;
  const auto fault = sim::parse_fault("slow_link:from=25,factor=3");
  REQUIRE(fault.ok());
  c.faults = {*fault};
  check_nothing_told(c);
}

TEST_CASE("batches that come every five seconds: nobody is called silent before that is known") {
  sim::Cluster c = cluster("tp=4,dp=16");
  c.seed = GENERATE(2, 7, 13);
  CAPTURE(c.seed);
  c.steps = 14;
  c.ranks_per_host = 8;
  c.model = {};
  c.telemetry.period_s = 5;
  check_nothing_told(c);
}

TEST_CASE("a verdict that gets better known is one verdict, and what it was called is withdrawn") {
  sim::Cluster c = cluster("dp=8");
  c.steps = 60;
  const auto fault =
      sim::parse_fault("slow_compute_periodic:rank=3,factor=1.6,from=10,on_s=4,off_s=8");
  REQUIRE(fault.ok());
  c.faults = {*fault};
  Registry registry;
  Live live(registry);
  REQUIRE(sim::simulate(c, registry, live).ok());
  const auto is_of_rank = [](const Verdict& v) {
    return v.culprit.ranks == std::vector<uint32_t>{3};
  };
  const auto count = [&](const std::vector<Verdict>& all, Class cls, bool withdrawn) {
    return std::count_if(all.begin(), all.end(), [&](const Verdict& v) {
      return is_of_rank(v) && v.cls == cls && v.withdrawn == withdrawn;
    });
  };
  CHECK(count(live.told, Class::kSlowCompute, false) > 0);
  CHECK(count(live.told, Class::kSlowCompute, true) == 1);
  CHECK(count(live.diagnoser.verdicts(), Class::kSlowComputePeriodic, false) == 1);
  CHECK(count(live.diagnoser.verdicts(), Class::kSlowCompute, false) == 0);
}
