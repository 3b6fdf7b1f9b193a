// The order checker against a plain one that keeps every access of every byte: random programs of
// streams, waits and host synchronisation, some with waits missing. Not checked: the wording beyond
// the names in it.
#include "src/standin/core/order.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>

using namespace convoy::standin;

namespace {

using Clock = OrderChecker::Clock;

struct PlainAccess {
  size_t actor;
  uint64_t tick;
  bool writes;
};

// Each byte's whole history, and clocks of its own.
class Plain {
 public:
  explicit Plain(size_t actors) : clocks(actors, Clock(actors)) {
    for (size_t a = 0; a < actors; ++a) clocks[a][a] = 1;
  }
  // Whether an earlier conflicting access of the last generation is not ordered before.
  bool perform(size_t actor, size_t begin, size_t end, bool writes) {
    Clock& clock = clocks[actor];
    ++clock[actor];
    bool race = false;
    for (size_t byte = begin; byte < end; ++byte) {
      auto& past = bytes[byte];
      for (const PlainAccess& p : past) {
        race = race || ((p.writes || writes) && clock[p.actor] < p.tick);
      }
      // As the checker does: a write begins anew, so that one mistake is not told forever.
      if (writes) past.clear();
      past.erase(
          std::remove_if(past.begin(), past.end(),
                         [&](const PlainAccess& p) { return p.actor == actor && !p.writes; }),
          past.end());
      past.push_back({actor, clock[actor], writes});
    }
    return race;
  }
  void join(size_t actor, const Clock& other) {
    for (size_t i = 0; i < other.size(); ++i) {
      clocks[actor][i] = std::max(clocks[actor][i], other[i]);
    }
  }
  std::vector<Clock> clocks;

 private:
  std::vector<PlainAccess> bytes[200];
};

const char* at(size_t byte) {
  return reinterpret_cast<const char*>(uintptr_t{0x1000} + byte);
}

}  // namespace

TEST_CASE("an event and a wait order two streams; without it both are named") {
  OrderChecker checker;
  const auto a = checker.add("stream 1"), b = checker.add("stream 2");
  std::vector<std::string> findings;
  const Clock written = checker.perform(a, "ncclAllReduce", {{at(0), 100, true}}, {}, findings);
  SECTION("with the wait") {
    checker.join(b, written);
    checker.perform(b, "aten::add_", {{at(50), 100, true}}, {}, findings);
    CHECK(findings.empty());
  }
  SECTION("without") {
    checker.perform(b, "aten::add_", {{at(50), 100, true}}, {}, findings);
    REQUIRE(findings.size() == 1);
    CHECK_THAT(findings[0], Catch::Contains("aten::add_ on stream 2 writes 100 bytes"));
    CHECK_THAT(findings[0], Catch::Contains("ncclAllReduce on stream 1 writes"));
    CHECK_THAT(findings[0], Catch::Contains("Record an event on stream 1"));
  }
  SECTION("other bytes") {
    checker.perform(b, "aten::add_", {{at(100), 100, true}}, {}, findings);
    CHECK(findings.empty());
  }
  SECTION("a new life") {
    checker.forget(at(0), 100);
    checker.perform(b, "aten::add_", {{at(50), 100, true}}, {}, findings);
    CHECK(findings.empty());
  }
}

TEST_CASE("random programs: a finding exactly where a plain checker has one") {
  const auto seed = GENERATE(range(1U, 41U));
  INFO("seed " << seed);
  std::mt19937 random(seed);
  OrderChecker checker;
  constexpr size_t kActors = 4;  // the host and three streams
  Plain plain(kActors);
  for (size_t s = 1; s < kActors; ++s) checker.add("stream " + std::to_string(s));
  std::vector<Clock> events(1, Clock(kActors)), plain_events(1, Clock(kActors));
  int races = 0;
  for (int step = 0; step < 400; ++step) {
    const auto actor = static_cast<OrderChecker::Actor>(random() % kActors);
    switch (random() % 4) {
      case 0: {  // record an event
        events.push_back(checker.clock(actor));
        plain_events.push_back(plain.clocks[actor]);
        break;
      }
      case 1: {  // wait for one
        const size_t e = random() % events.size();
        checker.join(actor, events[e]);
        plain.join(actor, plain_events[e]);
        break;
      }
      default: {
        const size_t begin = random() % 190, end = begin + 1 + random() % (200 - begin - 1);
        const bool writes = random() % 3 == 0;
        std::vector<std::string> findings;
        checker.perform(actor, "task " + std::to_string(step), {{at(begin), end - begin, writes}},
                        {}, findings);
        const bool race = plain.perform(actor, begin, end, writes);
        REQUIRE(findings.empty() != race);
        races += race;
      }
    }
  }
  CHECK(races > 0);
}
