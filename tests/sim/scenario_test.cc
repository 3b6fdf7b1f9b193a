// Scenarios of every class can be run, and their fault comes about and costs what it should: more
// than jitter, where it is one that slows. How well it is found is the accuracy benchmark's matter.
#include "tests/sim/recording.h"
#include <convoy/sim/scenario.h>

#include <catch2/catch.hpp>

#include <set>

using namespace convoy;
using namespace convoy::sim;
using trace::Class;

namespace {

struct Nowhere : trace::Sink {
  void job(const trace::JobInfo&) override {}
  void batch(const trace::Batch&) override {}
  void clock(const trace::ClockSample&) override {}
};

constexpr ScenarioLimits kSmall{.ranks_min = 64, .ranks_max = 128};

double seconds(const Outcome& o) {
  return static_cast<double>(o.step_ends.back() - o.begin) * 1e-9;
}

Outcome run(const Cluster& cluster) {
  trace::Registry registry;
  Nowhere nowhere;
  const auto outcome = simulate(cluster, registry, nowhere);
  INFO(cluster.mesh);
  REQUIRE(outcome.status().to_string() == "ok");
  return *outcome;
}

}  // namespace

TEST_CASE("the fault of a scenario comes about") {
  std::set<std::string> layouts;
  for (size_t i = 1; i < trace::kClasses; ++i) {
    const auto cls = static_cast<Class>(i);
    for (uint64_t seed = 1; seed <= 2; ++seed) {
      CAPTURE(fault_name(cls), seed);
      const Scenario s = random_scenario(seed, cls, kSmall);
      layouts.insert(s.layout);
      const Outcome o = run(s.cluster);
      REQUIRE(!o.truths.empty());
      CHECK(o.truths[0].cls == cls);
      CHECK(o.truths.size() == s.cluster.faults.size());
    }
  }
  CHECK(layouts.size() >= 6);
}

TEST_CASE("what slows costs more than jitter") {
  for (const Class cls :
       {Class::kSlowCompute, Class::kSlowHost, Class::kSlowNic, Class::kSlowTx, Class::kSlowRx,
        Class::kSlowLink, Class::kSlowFabric, Class::kSlowIntranode, Class::kDataLoaderStall,
        Class::kStorageStall, Class::kHostPause, Class::kHostLaunchBound, Class::kImbalanceStage,
        Class::kImbalanceExpert, Class::kImbalanceData, Class::kCheckpointStall}) {
    for (uint64_t seed = 1; seed <= 2; ++seed) {
      Scenario s = random_scenario(seed, cls, kSmall);
      s.cluster.faults.resize(1);
      const double with = seconds(run(s.cluster));
      s.cluster.faults.clear();
      const double without = seconds(run(s.cluster));
      CAPTURE(fault_name(cls), seed, s.cluster.mesh, with, without);
      CHECK(with > 1.01 * without);
    }
  }
}

TEST_CASE("controls have no fault and do not hang") {
  for (int i = 0; i < kControls; ++i) {
    const Scenario s = random_control(7, static_cast<Control>(i), kSmall);
    CAPTURE(name_of(static_cast<Control>(i)));
    const Outcome o = run(s.cluster);
    CHECK(o.truths.empty());
    CHECK_FALSE(o.hung);
    CHECK(o.step_ends.size() == s.cluster.steps);
  }
}

TEST_CASE("a scenario is its seed's") {
  const Scenario a = random_scenario(5, Class::kSlowTx), b = random_scenario(5, Class::kSlowTx);
  CHECK(a.cluster.mesh == b.cluster.mesh);
  CHECK(a.cluster.faults[0].factor == b.cluster.faults[0].factor);
  CHECK(a.cluster.mesh != random_scenario(6, Class::kSlowTx).cluster.mesh);
}
