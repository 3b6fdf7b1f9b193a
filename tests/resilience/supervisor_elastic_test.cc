// Machines that are missing, to be freed, not to be trusted, and back: which mesh a job goes on
// with, against made-up launchers. No processes, no clock.
#include "tests/resilience/made_up_cluster.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <string>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::seconds;

namespace {

// Until it is missed, and the others have gone on.
void train_and_lose_second(Cluster& job) {
  job.settle();
  job.let_time_pass(seconds(3));
  job.lose(1);
  job.let_time_pass(seconds(5));
}

}  // namespace

TEST_CASE("fewer replicas while a machine is missing, and all of them when it is back") {
  struct Case {
    const char* mesh;
    int spares, alone;  // ranks that the first machine trains with
  };
  for (const Case& c : {Case{"tp=2,dp=4", 0, 4}, Case{"tp=2,dp=4", 3, 6}, Case{"dp=8", 1, 5},
                        Case{"pp=2,dp=4,order=pp-dp", 0, 4}}) {
    CAPTURE(c.mesh, c.spares);
    for (const bool is_replaced : {false, true}) {
      const TempFolder folder;
      Cluster job(folder.path(), c.mesh, c.spares, 1);
      train_and_lose_second(job);
      CHECK(job.ranks == c.alone);
      CHECK(job.trains());
      if (is_replaced) job.replace_supervisor();  // the next one knows the mesh from the file
      job.kill(1);
      job.let_time_pass(seconds(2));
      CHECK(job.ranks == c.alone);
      CHECK(job.trains());
      job.come_back(1);
      job.let_time_pass(seconds(5));
      CHECK(job.ranks == kRanks * kNodes);
      CHECK(job.trains());
      const auto records = read_incidents(folder.path());
      REQUIRE(records.ok());
      CHECK(records->front().action == "shrink");
      CHECK(records->back().action == "grow");
      CHECK(records->back().processes_kept == c.alone);
    }
  }
}

TEST_CASE(
    "a machine that comes back in the middle of a recovery of the others does not disturb it") {
  const TempFolder folder;
  Cluster job(folder.path(), "tp=2,dp=4", 0, 1);
  train_and_lose_second(job);
  job.kill(1);
  job.come_back(1);
  job.let_time_pass(seconds(5));
  CHECK(job.ranks == kRanks * kNodes);
  CHECK(job.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 3);
  CHECK(records->at(1).action == "respawn");
  CHECK(records->at(1).faults == 1);
  CHECK(records->at(2).action == "grow");
}

TEST_CASE("fewer replicas with new processes, where the machine that is left lacks some") {
  for (const char* mesh : {"tp=2,dp=4", "dp=8", "pp=2,tp=2,dp=2,order=tp-pp-dp"}) {
    CAPTURE(mesh);
    const TempFolder folder;
    Cluster job(folder.path(), mesh, 0, 1);
    job.settle();
    job.let_time_pass(seconds(3));
    job.lose(1);
    for (int rank = 0; rank < kRanks; ++rank) job.kill(rank);
    job.let_time_pass(seconds(5));
    CHECK(job.ranks == kRanks);
    CHECK(job.trains());
    job.come_back(1);
    job.let_time_pass(seconds(5));
    CHECK(job.ranks == kRanks * kNodes);
    CHECK(job.trains());
  }
}

TEST_CASE("a machine that is started again before it is missed has lost its ranks all the same") {
  for (const bool is_replaced : {false, true}) {
    CAPTURE(is_replaced);
    const TempFolder folder;
    Cluster job(folder.path(), "tp=2,dp=4", 0, 1);
    job.settle();
    job.let_time_pass(seconds(3));
    job.lose(1);
    if (is_replaced) job.replace_supervisor();
    job.come_back(1);
    job.let_time_pass(seconds(8));
    CHECK(job.ranks == kRanks * kNodes);
    CHECK(job.trains());
    CHECK(job.newest > 0);
    const auto records = read_incidents(folder.path());
    REQUIRE(records.ok());
    CHECK_THAT(records->at(0).what, Catch::Contains("machine1"));
  }
}

TEST_CASE("another mesh where no whole replica is left, and its own when there is room again") {
  struct Case {
    const char* mesh;
    int spares;
    const char* alone;
  };
  for (const Case& c : {Case{"tp=2,pp=4", 0, "tp=2,pp=2"}, Case{"tp=2,pp=4", 3, "tp=2,pp=2"},
                        Case{"tp=8", 0, "tp=4"}, Case{"tp=4,pp=2", 1, "tp=4,pp=1"}}) {
    CAPTURE(c.mesh, c.spares);
    for (const bool is_replaced : {false, true}) {
      const TempFolder folder;
      Cluster job(folder.path(), c.mesh, c.spares, 1);
      job.takes_any_mesh = true;
      train_and_lose_second(job);
      CHECK(job.ranks == 4);
      CHECK(job.trains());
      CHECK_THAT(job.status(), Catch::Contains(std::string("\"") + c.alone + "\""));
      CHECK(job.holds == 0);  // nothing could be saved any more
      if (is_replaced) job.replace_supervisor();
      job.kill(1);
      job.let_time_pass(seconds(2));
      CHECK(job.ranks == 4);
      CHECK(job.trains());
      job.come_back(1);
      job.let_time_pass(seconds(5));
      CHECK(job.ranks == kRanks * kNodes);
      CHECK(job.trains());
      CHECK(job.holds == 4);
      const auto records = read_incidents(folder.path());
      REQUIRE(records.ok());
      REQUIRE(records->size() == 3);
      CHECK(records->front().action == "reshape");
      CHECK(records->front().processes_kept == 4);
      CHECK(records->back().action == "reshape");
      CHECK(records->back().steps_lost() == 0);
    }
  }
  // A program that has laid out its model by itself.
  const TempFolder folder;
  Cluster job(folder.path(), "tp=8", 0, 1);
  job.settle();
  job.lose(1);
  job.let_time_pass(seconds(4));
  CHECK(job.machines[0].end);
}

TEST_CASE("a machine that has the only copies is drained once they are saved") {
  for (const int spares : {0, 4}) {
    CAPTURE(spares);
    const TempFolder folder;
    Cluster job(folder.path(), "tp=2,pp=4", spares, 1);
    job.takes_any_mesh = true;
    job.settle();
    job.let_time_pass(seconds(3));
    proto::FromNode request;
    request.mutable_request()->set_what("drain 1");
    job.tell(0, request);
    job.let_time_pass(seconds(5));
    CHECK(job.holds == kRanks * kNodes);
    CHECK(job.machines[1].end);
    CHECK(job.training(0) == (spares > 0 ? kRanks * kNodes : 4));
    CHECK_FALSE(job.machines[0].end);
  }
}

TEST_CASE("a machine where processes end again and again is used when it has passed its checks") {
  const TempFolder folder;
  Cluster job(folder.path(), "tp=2,dp=4", kRanks, 1);
  const auto fail = [&](int rank) {
    const auto [node, id] = job.of_rank(rank);
    REQUIRE(node == 1);
    job.step += 100;
    job.die(node, id, 1 << 8);  // exit code 1
    job.let_time_pass(seconds(2));
    REQUIRE(job.trains());
  };
  job.settle();
  job.let_time_pass(seconds(3));
  fail(7);
  CHECK(job.training(1) == 4);
  fail(7);
  CHECK_THAT(job.status(), Catch::Contains("quarantined"));
  CHECK(job.training(1) < 4);
  job.let_time_pass(seconds(15));
  CHECK(job.checks == 0);
  job.let_time_pass(seconds(10));
  REQUIRE(job.checks == 1);
  const auto answer = [&](bool is_fit) {
    proto::FromNode message;
    message.mutable_checked()->set_is_fit(is_fit);
    message.mutable_checked()->set_text("disk.fsync .: 9 s");
    job.tell(1, message);
  };
  answer(false);
  CHECK_THAT(job.status(), Catch::Contains("quarantined"));
  job.let_time_pass(seconds(25));
  REQUIRE(job.checks == 2);
  answer(true);
  CHECK_THAT(job.status(), !Catch::Contains("quarantined"));
}
