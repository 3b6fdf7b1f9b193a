// A hang is told from slow steps by the job's own history; who is to blame from what each rank
// shows.
#include "src/resilience/supervisor/watch.h"

#include <catch2/catch.hpp>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

// Ranks that step together each `step`, looked at four times a second, until `at`.
struct Job {
  explicit Job(int ranks, Nanos step) : step(step) {
    for (int r = 0; r < ranks; ++r) vitals[r] = {.waiting = true, .training = true};
  }
  std::optional<HangWatch::Hang> look() {
    now += milliseconds(250);
    for (auto& [rank, v] : vitals) {
      if (stuck) continue;
      v.step = now.time_since_epoch() / step;
      v.took = v.step > 0 ? step : Nanos(0);
    }
    watch.take(now, vitals);
    return watch.look(now);
  }
  std::optional<HangWatch::Hang> look_for(Nanos duration) {
    std::optional<HangWatch::Hang> found;
    for (const TimePoint end = now + duration; now < end && !found;) found = look();
    return found;
  }

  Nanos step;
  std::map<int, RankVitals> vitals;
  TimePoint now{};
  bool stuck = false;
  HangWatch watch;
};

}  // namespace

TEST_CASE("steps that come are no hang, be they short or long") {
  for (const Nanos step : {Nanos(milliseconds(5)), Nanos(milliseconds(300)), Nanos(seconds(20))}) {
    Job job(4, step);
    CHECK_FALSE(job.look_for(60 * step + seconds(30)));
  }
}

TEST_CASE("a hang is found within four steps and two seconds, and by who does not wait") {
  for (const Nanos step : {Nanos(milliseconds(5)), Nanos(milliseconds(300)), Nanos(seconds(20))}) {
    Job job(4, step);
    REQUIRE_FALSE(job.look_for(6 * step + seconds(2)));
    job.stuck = true;
    job.vitals[2].waiting = false;
    const TimePoint begin = job.now;
    const auto hang = job.look_for(100 * step + seconds(60));
    REQUIRE(hang);
    CHECK(hang->culprits == std::vector{2});
    CHECK(job.now - begin <= 5 * step + seconds(3));
    CHECK_FALSE(job.look_for(seconds(60)));  // told once
  }
}

TEST_CASE("a hang right behind the first step is found") {
  Job job(2, milliseconds(40));
  REQUIRE_FALSE(job.look());
  job.stuck = true;
  job.vitals[0].waiting = false;
  const auto hang = job.look_for(seconds(10));
  REQUIRE(hang);
  CHECK(hang->culprits == std::vector{0});
}

TEST_CASE("who is halted is to blame, though it waits for others like them") {
  Job job(3, milliseconds(100));
  REQUIRE_FALSE(job.look_for(seconds(2)));
  job.stuck = true;
  job.vitals[1].halted = true;
  const auto hang = job.look_for(seconds(10));
  REQUIRE(hang);
  CHECK(hang->culprits == std::vector{1});
}

TEST_CASE("ranks that all wait for each other blame nobody") {
  Job job(3, milliseconds(100));
  REQUIRE_FALSE(job.look_for(seconds(2)));
  job.stuck = true;
  const auto hang = job.look_for(seconds(10));
  REQUIRE(hang);
  CHECK(hang->culprits.empty());
}

TEST_CASE("ranks that wait for a save have not hung, unless they are halted") {
  Job job(3, milliseconds(100));
  REQUIRE_FALSE(job.look_for(seconds(2)));
  job.stuck = true;
  job.vitals[1].saving = true;
  CHECK_FALSE(job.look_for(seconds(60)));
  job.vitals[1].halted = true;
  const auto hang = job.look_for(seconds(10));
  REQUIRE(hang);
  CHECK(hang->culprits == std::vector{1});
}

TEST_CASE("what is no training, and a machine that was halted itself, are no hang") {
  Job job(3, milliseconds(100));
  REQUIRE_FALSE(job.look_for(seconds(2)));
  job.stuck = true;
  for (auto& [rank, v] : job.vitals) v.training = false;
  CHECK_FALSE(job.look_for(seconds(60)));
  for (auto& [rank, v] : job.vitals) v.training = true;
  job.now += seconds(300);  // nobody looked
  CHECK_FALSE(job.look());
}
