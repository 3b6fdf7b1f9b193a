// Two runs of the small job: what is slower is found, by phase, role and operation, and nothing
// else; runs that differ by chance alone differ in nothing.
#include "tests/trace/small_job.h"
#include <convoy/trace/compare.h>

#include <catch2/catch.hpp>

using namespace convoy::trace;

namespace {

std::vector<Difference> differences(const SmallJob& a, const SmallJob& b) {
  Registry registry_a, registry_b;
  RunProfile profile_a(registry_a, {}), profile_b(registry_b, {});
  a.play(registry_a, profile_a);
  b.play(registry_b, profile_b);
  CHECK(profile_a.ranks() == a.world_size());
  CHECK(profile_a.steps() == a.steps);
  return compare(profile_a, profile_b);
}

const Difference* find(const std::vector<Difference>& all, Aspect aspect, const std::string& role,
                       const std::string& name) {
  for (const Difference& d : all) {
    if (d.quantity.aspect == aspect && d.quantity.role == role && d.quantity.name == name) {
      return &d;
    }
  }
  return nullptr;
}

}  // namespace

TEST_CASE("runs that differ by chance alone differ in nothing") {
  SmallJob a, b;
  a.steps = b.steps = 30;
  size_t compared = 0, beyond = 0;
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    a.seed = seed;
    b.seed = seed + 100;
    for (const Difference& d : differences(a, b)) {
      ++compared;
      beyond += d.beyond_noise ? 1 : 0;
    }
  }
  CHECK(compared > 200);
  CHECK(beyond == 0);
}

TEST_CASE("a slower backward pass is found, with how much") {
  SmallJob a, b;
  a.steps = b.steps = 30;
  b.seed = 2;
  b.slow = 1.1;
  const auto all = differences(a, b);
  const Difference* backward = find(all, Aspect::kPhase, "", names::kBackward);
  REQUIRE(backward != nullptr);
  CHECK(backward->beyond_noise);
  CHECK(backward->low < backward->change);
  CHECK(backward->change < backward->high);
  // 800 µs of a backward pass that holds a sum of 120 µs, too.
  CHECK(backward->change == Approx(80.0 / 920.0).margin(0.02));
  const Difference* forward = find(all, Aspect::kPhase, "", names::kForward);
  REQUIRE(forward != nullptr);
  CHECK_FALSE(forward->beyond_noise);
  const Difference* step = find(all, Aspect::kStep, "", names::kStep);
  REQUIRE(step != nullptr);
  CHECK(step->beyond_noise);
  CHECK(all.front().beyond_noise);
}

TEST_CASE("one slower stage is found in its role alone") {
  SmallJob a, b;
  a.steps = b.steps = 30;
  b.seed = 2;
  b.slow_last = 1.2;
  const auto all = differences(a, b);
  const Difference* last = find(all, Aspect::kPhase, "pp 1", names::kBackward);
  const Difference* first = find(all, Aspect::kPhase, "pp 0", names::kBackward);
  REQUIRE(last != nullptr);
  REQUIRE(first != nullptr);
  CHECK(last->beyond_noise);
  CHECK_FALSE(first->beyond_noise);
}

TEST_CASE("a few steps tell nothing") {
  SmallJob a, b;
  a.steps = b.steps = 4;
  b.slow = 3;
  for (const Difference& d : differences(a, b)) CHECK_FALSE(d.beyond_noise);
}
