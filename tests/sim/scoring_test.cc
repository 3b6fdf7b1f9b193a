// The scores of the accuracy benchmark, on verdicts that are written by hand: what counts as right
// must not depend on any diagnosis. And the baselines, on the cases that they are made for.
#include "tests/sim/scoring.h"

#include "tests/sim/baselines.h"
#include <convoy/sim/cluster.h>

#include <catch2/catch.hpp>

using namespace convoy;
using namespace convoy::sim;
using trace::Class;
using trace::Culprit;
using trace::Verdict;

namespace {

Truth truth_of(Class cls, const Culprit& culprit) {
  return {.cls = cls, .culprit = culprit, .onset = 1'000'000'000, .step = 3};
}

Verdict verdict(Class cls, const Culprit& culprit, double confidence) {
  Verdict v;
  v.cls = cls;
  v.culprit = culprit;
  v.confidence = confidence;
  v.told = 3'500'000'000;
  return v;
}

Culprit ranks(std::vector<uint32_t> of) {
  Culprit c;
  c.ranks = std::move(of);
  return c;
}

Outcome steps_of_a_second() {
  Outcome o;
  for (int64_t s = 1; s <= 6; ++s) o.step_ends.push_back(s * 1'000'000'000);
  return o;
}

std::vector<uint32_t> blamed(const Fault& fault, Baseline baseline) {
  Cluster c;
  c.mesh = "tp=4,dp=8";
  c.steps = 14;
  c.faults = {fault};
  trace::Registry registry;
  Baselines baselines(registry);
  const auto outcome = simulate(c, registry, baselines);
  REQUIRE(outcome.ok());
  return baselines.blame(baseline, outcome->hung);
}

}  // namespace

TEST_CASE("Wilson's interval") {
  CHECK(wilson(0, 0).low == 0);
  CHECK(wilson(95, 100).low == Approx(0.8882).margin(0.0005));
  CHECK(wilson(95, 100).high == Approx(0.9785).margin(0.0005));
  CHECK(wilson(100, 100).high == 1);
  CHECK(wilson(100, 100).low == Approx(0.963).margin(0.0005));
}

TEST_CASE("the right culprit is exactly the right one") {
  const Truth rank = truth_of(Class::kSlowCompute, ranks({3}));
  CHECK(same_culprit(rank, ranks({3}), {8}));
  CHECK_FALSE(same_culprit(rank, ranks({3, 4}), {8}));
  CHECK_FALSE(same_culprit(rank, {}, {8}));
  Culprit host;
  host.hosts = {"node0001"};
  const Truth hosts = truth_of(Class::kSlowHost, host);
  CHECK(same_culprit(hosts, host, {4}));
  CHECK(same_culprit(hosts, ranks({4, 5, 6, 7}), {4}));
  CHECK_FALSE(same_culprit(hosts, ranks({4, 5, 6}), {4}));
  CHECK_FALSE(same_culprit(hosts, ranks({0, 1, 2, 3}), {4}));
  Culprit half, other;
  half.hosts = {"node0000", "node0001"};
  other.hosts = {"node0002", "node0003"};
  const Truth border = truth_of(Class::kSlowFabric, half);
  CHECK(same_culprit(border, other, {8, 4}));
  CHECK_FALSE(same_culprit(border, other, {8, 8}));
  CHECK_FALSE(same_culprit(truth_of(Class::kSlowHost, half), other, {8, 4}));
  Culprit link, back;
  link.links = {{1, 2}};
  back.links = {{2, 1}};
  CHECK_FALSE(same_culprit(truth_of(Class::kSlowLink, link), back, {8}));
  CHECK(same_culprit(truth_of(Class::kSlowIntranode, link), back, {8}));
  CHECK(same_culprit(truth_of(Class::kStorageStall, {}), ranks({1}), {8}));
}

TEST_CASE("a verdict counts if it is among the surest") {
  const Truth truth = truth_of(Class::kSlowCompute, ranks({3}));
  const std::vector<Verdict> all = counted(
      std::vector{verdict(Class::kSlowCompute, ranks({3}), 0.7),
                  verdict(Class::kSlowNic, ranks({4}), 0.9), verdict(Class::kWarmUp, {}, 1)},
      false);
  REQUIRE(all.size() == 2);
  const Outcome outcome = steps_of_a_second();
  CHECK_FALSE(score(truth, all, 1, outcome, {8}).found);
  const Score two = score(truth, all, 2, outcome, {8});
  CHECK(two.found);
  CHECK(two.culprit);
  CHECK(two.latency_s == Approx(2.5));
  CHECK(two.latency_steps == 2);
  // The right rank for a wrong reason.
  const std::vector<Verdict> reason{verdict(Class::kHostPause, ranks({3}), 1)};
  CHECK_FALSE(score(truth, reason, 1, outcome, {8}).found);
  CHECK(score(truth, reason, 1, outcome, {8}).culprit);
  CHECK_FALSE(score(truth, {}, 1, outcome, {8}).culprit);
}

TEST_CASE("baselines find what they are made for, and nothing more") {
  const std::vector<uint32_t> seven{7};
  CHECK(blamed({.cls = Class::kHostHang, .rank = 7, .from = 6}, kFlightRecorder) == seven);
  CHECK(blamed({.cls = Class::kMismatchSize, .rank = 7, .from = 6}, kFlightRecorder) == seven);
  CHECK(blamed({.cls = Class::kSlowCompute, .rank = 7, .factor = 1.5, .from = 1}, kFlightRecorder)
            .empty());
  CHECK(blamed({.cls = Class::kSlowCompute, .rank = 7, .factor = 1.5, .from = 1},
               kLeastCommunication) == seven);
  // All have launched: counts say nothing.
  CHECK(
      blamed({.cls = Class::kNetHang, .rank = 7, .peer = 11, .from = 6}, kFlightRecorder).empty());
}
