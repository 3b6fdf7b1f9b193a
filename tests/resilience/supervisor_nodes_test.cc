// The supervisor of a job on several machines, against made-up launchers: who is lost, and that
// whatever is lost, whenever, leads all ranks into one generation or to an end for all. No
// processes, no clock.
#include "src/resilience/supervisor/heartbeats.h"
#include "tests/resilience/made_up_cluster.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <random>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

TEST_CASE("a node is lost when it is silent for far longer than ever") {
  const TimePoint start{seconds(100)};
  Heartbeats beats(start);
  beats.opened(start);
  TimePoint now = start;
  for (int i = 0; i < 10; ++i) beats.heard(now += milliseconds(250));
  CHECK(beats.limit() == seconds(3));
  CHECK_FALSE(beats.is_lost(now + milliseconds(2900)));
  CHECK(beats.is_lost(now + milliseconds(3100)));
  beats.ended();
  CHECK(beats.limit() == milliseconds(1500));
  beats.opened(now + seconds(1));  // the pause was not its own
  CHECK(beats.limit() == seconds(3));
  beats.heard(now + seconds(3));  // but this one
  CHECK(beats.limit() == seconds(10));
  beats.forgive(now + seconds(60));
  CHECK_FALSE(beats.is_lost(now + seconds(61)));
}

TEST_CASE("a rank of another machine is replaced there") {
  for (const int spares : {0, 1}) {
    const TempFolder folder;
    Cluster job(folder.path(), "tp=2,pp=2,dp=2", spares, 1);
    job.settle();
    job.kill(5);
    job.settle();
    CHECK(job.trains());
    CHECK(job.training(1) == kRanks);
    CHECK(job.of_rank(5).first == 1);
    const auto records = read_incidents(folder.path());
    REQUIRE(records.ok());
    REQUIRE(records->size() == 1);
    CHECK(records->front().spares_used == spares);
    CHECK(records->front().nodes == std::vector<std::string>{"machine1"});
    for (const auto& m : job.machines) {
      CHECK(m.workers.size() == static_cast<size_t>(kRanks + spares));
      for (const auto& [id, w] : m.workers) {
        if (w.rank < 0) continue;
        CHECK(w.local_size == kRanks);
        CHECK(w.local_rank == static_cast<uint32_t>(w.rank % kRanks));
      }
    }
  }
}

TEST_CASE("a lost machine's ranks go where there is room, else the job ends") {
  for (const bool is_silent : {false, true}) {
    const TempFolder folder;
    Cluster job(folder.path(), "tp=2,dp=4", kRanks, 1);
    job.settle();
    job.let_time_pass(seconds(3));
    if (is_silent) {
      job.machines[1].is_silent = true;
    } else {
      job.lose(1);
    }
    job.let_time_pass(seconds(5));
    CHECK(job.training(0) == kRanks * kNodes);
    for (const auto& [id, w] : job.machines[0].workers) {
      if (w.rank >= 0) CHECK(w.local_size == kRanks * kNodes);
    }
    // It has no room for spares any more.
    CHECK(job.machines[0].workers.size() == kRanks * kNodes);
    if (!is_silent) continue;
    job.machines[1].is_silent = false;  // and comes back, with its ranks
    job.hello(1);
    job.settle();
    CHECK(job.machines[1].workers.empty());  // they belong to a generation that is over
    CHECK_FALSE(job.machines[1].end);
    CHECK(job.training(0) == kRanks * kNodes);
  }
  const TempFolder folder;
  Cluster job(folder.path(), "tp=2,dp=4", kRanks - 1, 1, /*min_dp=*/4);
  job.settle();
  job.lose(1);
  job.let_time_pass(seconds(4));
  REQUIRE(job.machines[0].end);
  CHECK(job.machines[0].end->code() == 69);
  CHECK_THAT(job.machines[0].end->text(), Catch::Contains("machine1 is gone"));
}

TEST_CASE("a line that ends and comes back is no fault, and what happened meanwhile is found") {
  const TempFolder folder;
  Cluster job(folder.path(), "tp=2,dp=4", 1, 1);
  job.settle();
  job.cut(1);
  job.let_time_pass(seconds(1));
  job.mend(1);
  job.let_time_pass(seconds(5));
  CHECK(job.newest == 0);
  job.cut(1);
  job.kill(6);  // nobody hears of it
  job.kill(2);  // and this can't be judged yet
  job.settle();
  CHECK(job.newest == 0);
  job.mend(1);
  job.settle();
  CHECK(job.newest == 1);
  CHECK(job.trains());
  CHECK(job.training(1) == kRanks);
}

TEST_CASE("all launchers end together: with success, by one of them, and with the rank's code") {
  const TempFolder folder;
  Cluster job(folder.path(), "tp=2,dp=4", 1, 1);
  job.settle();
  for (int rank = 0; rank < kRanks * kNodes; ++rank) {
    CHECK_FALSE(job.machines[0].end);
    const auto [node, id] = job.of_rank(rank);
    job.die(node, id, 0);
    if (rank == 5) job.replace_supervisor();  // the next one hears who is done
    job.settle();
  }
  for (const auto& m : job.machines) {
    REQUIRE(m.end);
    CHECK(m.end->code() == 0);
  }
  const TempFolder other;
  Cluster second(other.path(), "tp=2,dp=4", 1, 1);
  second.settle();
  proto::FromNode leaving;
  leaving.mutable_leaving()->set_code(130);
  leaving.mutable_leaving()->set_text("SIGINT");
  second.supervisor->take(1, leaving);
  second.settle();
  REQUIRE(second.machines[0].end);
  CHECK(second.machines[0].end->code() == 130);
  CHECK_THAT(second.machines[0].end->text(), Catch::Contains("machine1"));
}

TEST_CASE("whatever is killed or cut on two machines, whenever, the job comes together or ends") {
  int ends = 0;
  for (uint64_t seed = 1; seed <= 1000; ++seed) {
    CAPTURE(seed);
    const TempFolder folder;
    std::mt19937_64 random(seed);
    const char* const meshes[] = {"tp=2,dp=4", "tp=2,pp=2,dp=2", "tp=8", "dp=8"};
    Cluster job(folder.path(), meshes[random() % 4], static_cast<int>(random() % 6), seed);
    job.takes_any_mesh = seed % 2 == 0;
    job.let_time_pass(seconds(1));
    for (int faults = 0; faults < 7; ++faults) {
      ++job.step;
      for (uint64_t moves = random() % 12; moves > 0 && job.move(); --moves) {
      }
      const uint64_t what = random() % 9;
      if (what == 0) {
        job.replace_supervisor();
      } else if (what == 1 && job.machines[1].has_line) {
        job.cut(1);
      } else if (what == 2 && !job.machines[1].has_line && !job.machines[1].is_gone) {
        job.mend(1);
      } else if (what == 3 && job.machines[1].is_gone) {
        job.come_back(1);
      } else if (what == 3 && random() % 2 == 0) {
        job.lose(1);
      } else if (what == 4 && !job.machines[1].is_gone) {  // before anyone can miss it
        job.lose(1);
        if (random() % 2 == 0) job.replace_supervisor();
        job.come_back(1);
      } else {
        job.kill(static_cast<int>(random() % (kRanks * kNodes)));
      }
    }
    if (!job.machines[1].has_line && !job.machines[1].is_gone) job.mend(1);
    job.let_time_pass(seconds(12));
    const bool has_ended = job.machines[0].end.has_value();
    ends += has_ended ? 1 : 0;
    if (has_ended) {
      const std::string why = job.machines[0].end->text();
      CAPTURE(why);
      CHECK((job.machines[1].is_gone || why.find("brought no step") != std::string::npos));
    }
    if (!has_ended) CHECK(job.trains());
  }
  CHECK(ends > 0);
  CHECK(ends < 500);
}
