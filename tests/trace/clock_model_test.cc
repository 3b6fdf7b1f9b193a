// Clocks with offset, drift and steps, seen through jittered round trips and collectives. Compared
// with the true clock that the test makes up.
#include <convoy/trace/clock_model.h>

#include <catch2/catch.hpp>

#include <cmath>
#include <random>

using namespace convoy::trace;

namespace {

constexpr int64_t kSecond = 1'000'000'000, kStart = 1'700'000'000 * kSecond;

struct Host {
  int64_t offset = 0;  // root - host
  double drift = 0;
  int64_t at(int64_t root) const {
    return root - offset - static_cast<int64_t>(drift * static_cast<double>(root - kStart));
  }
};

ClockSample sample(const char* name, const Host& host, int64_t root, std::mt19937& random) {
  // The answer takes 30 to 100 us each way; the middle of the round trip is the guess.
  std::uniform_int_distribution<int64_t> way(30'000, 100'000);
  const int64_t there = way(random), back = way(random);
  return {name, host.at(root + there), root + (there + back) / 2, (there + back) / 2};
}

}  // namespace

TEST_CASE("offset and drift are found, and the error bound holds") {
  std::mt19937 random(GENERATE(1U, 2U, 3U));
  std::uniform_real_distribution<double> drifts(-30e-6, 30e-6);
  const Host host{12'345'678'901'234, drifts(random)};
  ClockModel model;
  model.place(7, "a");
  CHECK(model.error(7) == ClockModel::kErrorUnknown);
  CHECK(model.root_time(7, 0) == 0);
  int64_t worst = 0;
  for (int i = 0; i < 200; ++i) {
    const int64_t now = kStart + i * kSecond;
    model.sample(sample("a", host, now, random));
    const int64_t off = std::abs(model.root_time(7, host.at(now)) - now);
    CHECK(off <= model.error(7));
    if (i > 20) worst = std::max(worst, off);
  }
  CHECK(worst < 20'000);
  CHECK(model.steps().empty());
}

TEST_CASE("a step is found by round trips, one bad sample is none") {
  std::mt19937 random(5);
  Host host{5 * kSecond, 10e-6};
  ClockModel model;
  model.place(0, "a");
  for (int i = 0; i < 20; ++i) model.sample(sample("a", host, kStart + i * kSecond, random));
  ClockSample bad = sample("a", host, kStart + 20 * kSecond, random);
  bad.root_time += 30'000'000;
  model.sample(bad);
  model.sample(sample("a", host, kStart + 21 * kSecond, random));
  CHECK(model.steps().empty());
  const int64_t before = host.at(kStart + 21 * kSecond);
  host.offset -= 50'000'000;  // the host's clock goes ahead
  for (int i = 22; i < 25; ++i) model.sample(sample("a", host, kStart + i * kSecond, random));
  REQUIRE(model.steps().size() == 1);
  CHECK(std::abs(model.steps()[0].amount - 50'000'000) < 1'000'000);
  const int64_t now = kStart + 24 * kSecond;
  CHECK(std::abs(model.root_time(0, host.at(now)) - now) < 200'000);
  CHECK(std::abs(model.root_time(0, before) - (kStart + 21 * kSecond)) < 200'000);
}

TEST_CASE("collectives tell of a step before the next round trip does") {
  std::mt19937 random(6);
  Host hosts[4] = {{1 * kSecond, 0}, {2 * kSecond, 0}, {3 * kSecond, 0}, {4 * kSecond, 0}};
  const char* const names[] = {"a", "b", "c", "d"};
  ClockModel model;
  for (uint32_t h = 0; h < 4; ++h) {
    model.place(h, names[h]);
    for (int i = 0; i < 5; ++i) {
      model.sample(sample(names[h], hosts[h], kStart + i * kSecond, random));
    }
  }
  hosts[2].offset -= 20'000'000;
  for (int i = 0; i < 8; ++i) {
    // c is the last to come, as it seems; others leave 2 ms after it has come.
    const int64_t now = kStart + 5 * kSecond + i * 10'000'000;
    const uint32_t other = i % 2 == 0 ? 0 : 1;
    model.order(2, model.root_time(2, hosts[2].at(now)), other,
                model.root_time(other, hosts[other].at(now + 2'000'000)));
  }
  REQUIRE(model.steps().size() == 1);
  CHECK(model.steps()[0].host == 2);
  CHECK(std::abs(model.steps()[0].amount - 20'000'000) < 4'000'000);
  const int64_t now = kStart + 5 * kSecond + 100'000'000;
  CHECK(std::abs(model.root_time(2, hosts[2].at(now)) - now) < 4'000'000);
}

TEST_CASE("without round trips, arrivals and collectives align hosts") {
  const Host hosts[2] = {{100 * kSecond, 0}, {7 * kSecond, 0}};
  ClockModel model;
  model.place(0, "a");
  model.place(1, "b");
  for (int i = 0; i < 50; ++i) {
    const int64_t now = kStart + i * kSecond / 10;
    model.received(0, hosts[0].at(now), now + 1'000'000);
    model.received(1, hosts[1].at(now), now + 6'000'000);
    for (const uint32_t last : {0U, 1U}) {
      const uint32_t first = 1 - last;
      model.order(last, model.root_time(last, hosts[last].at(now)), first,
                  model.root_time(first, hosts[first].at(now + 500'000)));
    }
  }
  const int64_t apart =
      model.root_time(0, hosts[0].at(kStart)) - model.root_time(1, hosts[1].at(kStart));
  CHECK(std::abs(apart) <= 600'000);
  CHECK(model.steps().empty());
}
