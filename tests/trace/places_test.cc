// Where a network fault is, from made-up measurements: for each kind of place the one that explains
// them is named, a decoy of another kind is not, and what can't be told apart is said to be so.
// Ranks 2h and 2h + 1 are on host h; eight hosts, links all with all.
#include "trace/analysis/slow/places.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <cmath>

using namespace convoy::trace;
using namespace convoy::trace::slow;

namespace {

constexpr uint32_t kRanks = 16;
constexpr float kError = 0.04F;

uint32_t host_of(uint32_t rank) {
  return rank / 2;
}
bool crosses(uint32_t a, uint32_t b) {
  return host_of(a) != host_of(b);
}

// Links between hosts, `times` as slow as before.
std::vector<Measure> links(const std::function<float(uint32_t, uint32_t)>& times) {
  std::vector<Measure> all;
  for (uint32_t a = 0; a < kRanks; ++a) {
    for (uint32_t b = 0; b < kRanks; ++b) {
      if (!crosses(a, b)) continue;
      const float level = std::log(times(a, b));
      all.push_back({.ranks = {a, b},
                     .is_link = true,
                     .is_raised = level > 0.25F,
                     .level = level + (((a * 7 + b * 3) % 5) - 2.0F) * kError / 2,
                     .error = kError});
    }
  }
  return all;
}

std::vector<Place> places(const std::vector<Measure>& measures) {
  return Places(measures, crosses, host_of).find();
}

const Place& only(const std::vector<Place>& found) {
  REQUIRE(found.size() == 1);
  CHECK(!found[0].is_ambiguous);
  return found[0];
}

}  // namespace

TEST_CASE("nothing is raised: no place") {
  CHECK(places(links([](auto, auto) { return 1.0F; })).empty());
  CHECK(places({}).empty());
}

TEST_CASE("one link, what a rank sends, what it receives, both ways") {
  const float slow = GENERATE(1.6F, 3.0F);
  {
    const auto found = places(links([&](auto a, auto b) { return a == 3 && b == 9 ? slow : 1; }));
    CHECK(only(found).cls == Class::kSlowLink);
    CHECK((only(found).rank == 3 && only(found).peer == 9));
  }
  {
    const auto found = places(links([&](auto a, auto) { return a == 3 ? slow : 1; }));
    CHECK(only(found).cls == Class::kSlowTx);
    CHECK(only(found).rank == 3);
  }
  {
    const auto found = places(links([&](auto, auto b) { return b == 9 ? slow : 1; }));
    CHECK(only(found).cls == Class::kSlowRx);
    CHECK(only(found).rank == 9);
  }
  {
    const auto found = places(links([&](auto a, auto b) { return a == 5 || b == 5 ? slow : 1; }));
    CHECK(only(found).cls == Class::kSlowNic);
    CHECK(only(found).rank == 5);
  }
}

TEST_CASE("the border of some hosts is one fault, not many") {
  const auto is_in = [](uint32_t r) { return host_of(r) == 4 || host_of(r) == 5; };
  const auto found = places(links([&](auto a, auto b) { return is_in(a) != is_in(b) ? 2.0F : 1; }));
  CHECK(only(found).cls == Class::kSlowFabric);
  CHECK(only(found).hosts == std::vector<uint32_t>{4, 5});
}

TEST_CASE("two faults are two places") {
  const auto found = places(links([](auto a, auto b) {
    return a == 3 && b == 9 ? 2.5F : a == 12 || b == 12 ? 2.0F : 1;
  }));
  REQUIRE(found.size() == 2);
  CHECK(found[0].cls == Class::kSlowNic);
  CHECK(found[0].rank == 12);
  CHECK(found[1].cls == Class::kSlowLink);
}

TEST_CASE("one link that is far slower, beside one that is a little so, is no border") {
  std::vector<Measure> ring;
  for (uint32_t r = 1; r < kRanks; r += 2) {
    const float level = r == 7 ? 1.1F : r == 11 ? 0.27F : 0.0F;
    ring.push_back({.ranks = {r, (r + 1) % kRanks},
                    .is_link = true,
                    .is_raised = level > 0.25F,
                    .level = level,
                    .error = kError});
  }
  const auto found = places(ring);
  REQUIRE(!found.empty());
  CHECK(found[0].cls == Class::kSlowLink);
  CHECK(found[0].rank == 7);
}

TEST_CASE("while all wait for a far slower link, all links are a little slower: it is that link") {
  const float echo = GENERATE(1.2F, 1.8F);
  const bool one_way = GENERATE(false, true);
  std::vector<Measure> all = links([&](auto a, auto b) {
    const bool echoes = !one_way || a < kRanks / 2;
    return a == 3 && b == 9 ? 9 : a == 3 && b == 12 ? 1.2F * echo : echoes ? echo : 1;
  });
  for (Measure& m : all) m.error = 0.2F;
  const auto found = places(all);
  REQUIRE(!found.empty());
  CHECK(found[0].cls == Class::kSlowLink);
  CHECK((found[0].rank == 3 && found[0].peer == 9));
}

TEST_CASE("a rank's only link: by lost packets its sender, else the link") {
  const bool is_lossy = GENERATE(false, true);
  const std::vector<Measure> one{{.ranks = {1, 2},
                                  .is_link = true,
                                  .is_raised = true,
                                  .is_lossy = is_lossy,
                                  .level = 1,
                                  .error = kError}};
  CHECK(only(places(one)).cls == (is_lossy ? Class::kSlowTx : Class::kSlowLink));
}

TEST_CASE("operations of one group only: nobody can say which of its links it is") {
  Measure ring{.ranks = {}, .is_raised = true, .level = 1, .error = kError};
  for (uint32_t r = 0; r < kRanks; r += 2) ring.ranks.push_back(r);
  const auto found = places({ring});
  REQUIRE(found.size() == 1);
  CHECK(found[0].is_ambiguous);
}

TEST_CASE("groups that share one rank's links tell it") {
  // Of each rank: a ring with those of its place on other hosts, and one with a neighbour of two.
  std::vector<Measure> groups;
  const auto add = [&](std::vector<uint32_t> ranks) {
    const bool has = std::find(ranks.begin(), ranks.end(), 4U) != ranks.end();
    groups.push_back(
        {.ranks = std::move(ranks), .is_raised = has, .level = has ? 0.9F : 0, .error = kError});
  };
  for (uint32_t place = 0; place < 2; ++place) {
    add({place, place + 2, place + 4, place + 6});
    add({place + 8, place + 10, place + 12, place + 14});
    for (uint32_t r = 0; r < 8; r += 2) add({r + place, r + place + 8});
  }
  const auto found = places(groups);
  REQUIRE(found.size() == 1);
  CHECK(!found[0].is_ambiguous);
  CHECK(found[0].cls == Class::kSlowNic);
  CHECK(found[0].rank == 4);
}
