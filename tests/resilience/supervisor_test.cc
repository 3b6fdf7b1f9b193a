// The supervisor against made-up nodes: whatever dies, whenever, its orders lead all ranks into one
// generation, and numbers are never used twice. No processes, no clock: seconds pass in
// microseconds.
#include "src/resilience/supervisor/supervisor.h"

#include "src/resilience/protocol/protocol.h"
#include "tests/resilience/made_up_worker.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <chrono>
#include <csignal>
#include <deque>
#include <map>
#include <random>
#include <set>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr int kKilled = SIGKILL;  // as wait statuses
constexpr int kCode(int code) {
  return code << 8;
}

// One node and its workers, which do what they are told, one order at a time.
class Crew {
 public:
  Crew(const std::string& run_dir, int ranks, int spares, uint64_t seed)
      : run_dir_(run_dir), ranks_(ranks), spares_(spares), random_(seed) {
    for (int r = 0; r < ranks; ++r) start(r, /*joined=*/true);
    for (int s = 0; s < spares; ++s) start(-1, true);
    replace_supervisor();
  }

  void replace_supervisor() {
    orders_.clear();
    auto made = Supervisor::create(
        {.job = "job",
         .run_dir = run_dir_,
         .mesh = "tp=2,dp=*",
         .ranks = ranks_,
         .spares = spares_,
         .unix_time = 1e9 + std::chrono::duration<double>(clock.now().time_since_epoch()).count(),
         .notify =
             [this](const std::string& json) { told.push_back(nlohmann::json::parse(json)); }},
        clock, [this](int, const proto::ToNode& order) {
          if (order.has_answer()) {
            answer_ = order.answer().text();
          } else {
            orders_.push_back(order);
          }
        });
    REQUIRE(made.ok());
    supervisor_.emplace(std::move(made).value());
    proto::FromNode hello;
    hello.mutable_hello()->set_version(kProtocolVersion);
    hello.mutable_hello()->set_name("node");
    for (const auto& [id, w] : workers) {
      proto::Worker& told = *hello.mutable_hello()->add_workers();
      told.set_worker(id);
      told.set_rank(w.rank);
      told.set_has_joined(w.joined);
      told.set_pid(static_cast<int64_t>(id));
    }
    tell(hello);
  }

  void die(uint64_t id, int wait_status) {
    workers.erase(id);
    proto::FromNode ended;
    ended.mutable_ended()->set_worker(id);
    ended.mutable_ended()->set_wait_status(wait_status);
    tell(ended);
  }
  uint64_t of_rank(int rank) const {
    for (const auto& [id, w] : workers) {
      if (w.rank == rank) return id;
    }
    return 0;
  }

  // Something that is due happens; false: nothing is.
  bool move() {
    if (!orders_.empty()) {
      const proto::ToNode order = orders_.front();
      orders_.pop_front();
      obey(order);
      return true;
    }
    std::vector<uint64_t> due;
    for (const auto& [id, w] : workers) {
      if (workers.contains(w.held_by)) continue;
      if (w.is_due()) due.push_back(id);
    }
    if (due.empty()) return false;
    act(due[random_() % due.size()]);
    return true;
  }
  void settle() {
    for (int i = 0; i < 10000 && move(); ++i) {
    }
  }
  void tick() {
    proto::FromNode message;
    for (const auto& [id, w] : workers) {
      proto::Vital& v = *message.mutable_vitals()->add_of();
      v.set_worker(id);
      v.set_step(step);
      v.set_step_ns(100'000'000);
      v.set_training(true);
      v.set_waiting(!w.hangs && !w.is_busy);
      v.set_halted(w.hangs);
    }
    tell(message);
    supervisor_->tick();
    clock.advance(milliseconds(250));
  }
  std::string ask(const std::string& what) {
    proto::FromNode message;
    message.mutable_request()->set_what(what);
    tell(message);
    return answer_;
  }
  nlohmann::json status() { return nlohmann::json::parse(ask("status")); }
  void verdict(proto::Verdict::Kind kind, const std::vector<int>& ranks, double age_s) {
    proto::FromNode message;
    message.mutable_verdict()->set_kind(kind);
    for (const int rank : ranks) message.mutable_verdict()->add_ranks(rank);
    message.mutable_verdict()->set_text("made up");
    message.mutable_verdict()->set_age_s(age_s);
    message.mutable_verdict()->set_cost(0.2);
    tell(message);
  }
  // Whether all ranks train in one generation.
  bool trains() const {
    std::set<int> present;
    for (const auto& [id, w] : workers) {
      if (w.rank >= 0 && w.generation == newest && !w.must_step) present.insert(w.rank);
    }
    return static_cast<int>(present.size()) == ranks_;
  }

  struct Worker : MadeUpWorker {
    bool hangs = false;    // is halted
    bool is_busy = false;  // is in no operation with others
    uint64_t held_by = 0;  // comes no further while that one lives
  };
  ManualClock clock;
  std::map<uint64_t, Worker> workers;
  uint64_t newest = 0;  // generation that was summoned to
  int64_t step = 10;
  int store_server = -1;  // the rank that serves the store, and tells of groups
  std::optional<proto::End> end;
  std::vector<std::string> said;
  std::vector<nlohmann::json> told;  // a webhook

 private:
  void tell(const proto::FromNode& message) { supervisor_->take(0, message); }
  uint64_t start(int rank, bool joined) {
    Worker& w = workers[++last_];
    w.rank = rank;
    w.joined = joined;
    return last_;
  }

  void obey(const proto::ToNode& order) {
    if (order.has_spawn()) {
      const uint64_t id = start(order.spawn().rank(), false);
      proto::FromNode started;
      started.mutable_started()->mutable_worker()->set_worker(id);
      started.mutable_started()->mutable_worker()->set_rank(order.spawn().rank());
      started.mutable_started()->set_generation(order.spawn().generation());
      tell(started);
    } else if (order.has_kill()) {
      if (workers.contains(order.kill().worker())) die(order.kill().worker(), kKilled);
    } else if (order.has_places()) {
      for (const auto& w : order.places().workers()) {
        if (workers.contains(w.worker())) workers[w.worker()].rank = w.rank();
      }
    } else if (order.has_tell()) {
      const auto at = workers.find(order.tell().worker());
      if (at == workers.end()) return;
      Worker& w = at->second;
      if (order.tell().what().has_summons()) {
        const auto& s = order.tell().what().summons();
        if (s.serves_store()) store_server = static_cast<int>(s.rank());
        CHECK(s.generation() > w.generation);
        CHECK(s.generation() >= newest);
        newest = s.generation();
        w.generation = s.generation();
        w.rank = static_cast<int>(s.rank());
        w.must_get_ready = !w.hangs;
        w.must_step = false;
      } else if (order.tell().what().go().generation() == w.generation) {
        w.must_step = true;
      }
    } else if (order.has_end()) {
      end = order.end();
    } else if (order.has_say()) {
      said.push_back(order.say().text());
    }
  }

  void act(uint64_t id) { tell(workers[id].act(id, step)); }

  std::string run_dir_;
  int ranks_, spares_;
  std::mt19937_64 random_;
  uint64_t last_ = 0;
  std::deque<proto::ToNode> orders_;
  std::string answer_;
  std::optional<Supervisor> supervisor_;
};

}  // namespace

TEST_CASE("a dead rank's place is taken by a spare, else by a process that is started") {
  for (const int spares : {0, 1}) {
    const TempFolder folder;
    Crew crew(folder.path(), 4, spares, 1);
    crew.settle();
    crew.die(crew.of_rank(2), kKilled);
    crew.settle();
    CHECK(crew.trains());
    CHECK(crew.newest == 1);
    CHECK(crew.workers.size() == static_cast<size_t>(4 + spares));  // the spare is replaced
    const auto records = read_incidents(folder.path());
    REQUIRE(records.ok());
    REQUIRE(records->size() == 1);
    CHECK(records->front().spares_used == spares);
    CHECK(records->front().processes_started == 1 - spares);
    CHECK(records->front().processes_kept == 3);
    CHECK(records->front().steps_lost() == 0);
  }
}

TEST_CASE("many that die at once are one recovery: who lives stays") {
  const TempFolder folder;
  Crew crew(folder.path(), 8, 2, 5);
  crew.settle();
  for (const int rank : {0, 3, 4, 5, 7}) crew.die(crew.of_rank(rank), kKilled);
  crew.settle();
  CHECK(crew.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 1);
  CHECK(records->front().faults == 5);
  CHECK(records->front().processes_kept == 3);
  CHECK(records->front().spares_used == 2);
  CHECK(records->front().nodes == std::vector<std::string>{"node"});
}

TEST_CASE("many that crash at once have failed in their step once, not many times") {
  const TempFolder folder;
  Crew crew(folder.path(), 8, 1, 5);
  crew.settle();
  crew.tick();
  for (const int rank : {0, 1, 2, 3, 5}) crew.die(crew.of_rank(rank), SIGSEGV);
  crew.settle();
  CHECK_FALSE(crew.end);
  CHECK(crew.trains());
}

TEST_CASE("processes that die before they are ready end the job, not go on for ever") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 0, 6);
  crew.settle();
  crew.tick();
  crew.die(crew.of_rank(1), kKilled);
  int deaths = 0;
  for (; deaths < 50 && !crew.end; ++deaths) {
    for (int i = 0; i < 3 && crew.move(); ++i) {
    }
    if (const uint64_t id = crew.of_rank(1); id != 0) crew.die(id, kCode(70));
  }
  CHECK(crew.end);
  CHECK(deaths < 20);
}

TEST_CASE("all die, and most of those that start in their places, once each: one round") {
  const TempFolder folder;
  Crew crew(folder.path(), 8, 0, 6);
  crew.settle();
  crew.tick();
  for (int rank = 0; rank < 8; ++rank) crew.die(crew.of_rank(rank), kKilled);
  for (int i = 0; i < 9; ++i) crew.move();  // processes start in their places
  for (int rank = 0; rank < 8; ++rank) {
    if (const uint64_t id = crew.of_rank(rank); id != 0) crew.die(id, kKilled);
  }
  crew.settle();
  CHECK_FALSE(crew.end);
  CHECK(crew.trains());
}

TEST_CASE("whatever is killed, whenever, the job comes together again") {
  // Ranks, spares, processes that are not there yet, and supervisors, in the middle of everything.
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const TempFolder folder;
    std::mt19937_64 random(seed);
    Crew crew(folder.path(), 4, static_cast<int>(random() % 3), seed);
    for (int faults = 0; faults < 3; ++faults) {
      ++crew.step;
      for (uint64_t moves = random() % 12; moves > 0 && crew.move(); --moves) {
      }
      if (random() % 5 == 0) {
        crew.replace_supervisor();
      } else if (!crew.workers.empty()) {
        auto victim = crew.workers.begin();
        std::advance(victim, static_cast<std::ptrdiff_t>(random() % crew.workers.size()));
        crew.die(victim->first, kKilled);
      }
    }
    crew.settle();
    if (!crew.trains() && !crew.end) crew.replace_supervisor(), crew.settle();
    CHECK_FALSE(crew.end);
    CHECK(crew.trains());
  }
}

TEST_CASE("who hangs is killed and replaced, in training and on the way into a generation") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  const auto let_time_pass = [&] {
    for (int i = 0; i < 60; ++i) {
      crew.tick();
      crew.settle();
    }
  };
  crew.tick();
  const uint64_t first = crew.of_rank(1);
  crew.workers[first].hangs = true;
  let_time_pass();
  CHECK_FALSE(crew.workers.contains(first));
  CHECK(crew.trains());
  // Another one dies, and one of those who should leave their groups doesn't.
  const uint64_t second = crew.of_rank(3);
  crew.workers[second].hangs = true;
  crew.die(crew.of_rank(0), kKilled);
  let_time_pass();
  CHECK_FALSE(crew.workers.contains(second));
  CHECK(crew.trains());
  CHECK_FALSE(crew.end);
  // One that is halted holds a lock: who waits for that is not to blame.
  const uint64_t third = crew.of_rank(2), waits = crew.of_rank(1);
  crew.workers[third].hangs = true;
  crew.workers[waits].held_by = third;
  crew.die(crew.of_rank(0), kKilled);
  let_time_pass();
  CHECK_FALSE(crew.workers.contains(third));
  CHECK(crew.workers.contains(waits));
  CHECK(crew.trains());
}

TEST_CASE("the next supervisor knows who has trained: only those know of groups") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  crew.tick();
  crew.die(crew.of_rank(0), kKilled);
  crew.store_server = -1;
  while (crew.store_server < 0 && crew.move()) {
  }
  CHECK(crew.store_server == 1);  // not the spare that has rank 0
  crew.replace_supervisor();
  crew.store_server = -1;
  crew.settle();
  CHECK(crew.store_server == 1);
  CHECK(crew.trains());
}

TEST_CASE("what another try would not mend ends the job, with the program's exit code") {
  const TempFolder folder;
  {
    Crew crew(folder.path() + "", 2, 0, 1);
    crew.settle();
    crew.tick();
    crew.die(crew.of_rank(1), kCode(65));
    crew.settle();
    REQUIRE(crew.end);
    CHECK(crew.end->code() == 65);
    CHECK(crew.end->cause() == 1);
  }
  const TempFolder other;
  Crew crew(other.path(), 2, 0, 1);
  crew.settle();
  crew.tick();
  for (int i = 0; i < 3; ++i) {  // in the same step, each time in a new process
    crew.die(crew.of_rank(0), SIGSEGV);
    crew.step -= 2;
    crew.settle();
  }
  REQUIRE(crew.end);
  CHECK(crew.end->code() == 128 + SIGSEGV);
}

TEST_CASE("a hang that the tracer finds is acted on at once, and its culprit leads") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  for (int i = 0; i < 5; ++i) crew.tick();
  const uint64_t named = crew.of_rank(2), busy = crew.of_rank(1);
  crew.workers[busy].is_busy = true;  // whom the own guess would name
  crew.verdict(proto::Verdict::HANG, {2}, 0.7);
  crew.tick();
  crew.settle();
  CHECK_FALSE(crew.workers.contains(named));
  CHECK(crew.workers.contains(busy));
  CHECK(crew.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 1);
  CHECK(records->front().what == "the tracer found: made up");
  CHECK(records->front().ranks == std::vector<int>{2});
}

TEST_CASE("ranks that are halted are to blame, whoever the tracer names") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  for (int i = 0; i < 5; ++i) crew.tick();
  const uint64_t named = crew.of_rank(2), halted = crew.of_rank(1);
  crew.workers[halted].hangs = true;
  crew.verdict(proto::Verdict::HANG, {2}, 0.1);
  crew.tick();
  crew.settle();
  CHECK(crew.workers.contains(named));
  CHECK_FALSE(crew.workers.contains(halted));
  CHECK(crew.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 1);
  CHECK(records->front().what == "the tracer found: made up; but rank 1 is halted");
}

TEST_CASE(
    "a verdict on a rank that has done a step since, or on an earlier generation, is ignored") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  for (int i = 0; i < 8; ++i) ++crew.step, crew.tick();
  for (const auto kind : {proto::Verdict::HANG, proto::Verdict::MISMATCH}) {
    crew.verdict(kind, {2}, 1.5);
    crew.tick();
    CHECK(crew.newest == 0);
  }
  CHECK(crew.status().at("notes").size() == 2);
  crew.die(crew.of_rank(2), kKilled);
  crew.settle();
  crew.tick();
  crew.verdict(proto::Verdict::HANG, {2}, 1.5);
  crew.tick();
  crew.settle();
  CHECK(crew.newest == 1);
  CHECK_FALSE(crew.end);
}

TEST_CASE("what lasts no longer than a long step is not yet a hang") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  crew.tick();
  crew.clock.advance(seconds(1));
  for (int i = 0; i < 4; ++i) ++crew.step, crew.tick();  // the first of them took 1.25 s
  crew.tick(), crew.tick(), crew.tick();
  crew.verdict(proto::Verdict::HANG, {2}, 0.7);
  crew.tick();
  CHECK(crew.newest == 0);
  for (int i = 0; i < 8 && crew.newest == 0; ++i) crew.tick(), crew.settle();
  CHECK(crew.newest == 1);
}

TEST_CASE("a mismatch that the tracer finds ends the job, with that reason") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  for (int i = 0; i < 5; ++i) crew.tick();
  crew.verdict(proto::Verdict::MISMATCH, {3}, 0.7);
  crew.tick();
  crew.settle();
  REQUIRE(crew.end);
  CHECK(crew.end->text().find("the tracer found: made up") != std::string::npos);
  CHECK(read_incidents(folder.path())->front().kind == name_of(FaultKind::kMismatch));
}

TEST_CASE("a straggler that nothing is done about is a note, no incident") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  crew.tick();
  for (int i = 0; i < 3; ++i) crew.verdict(proto::Verdict::SLOW, {1}, 5);
  crew.tick();
  nlohmann::json status = crew.status();
  CHECK(status.at("incidents") == 0);
  CHECK_FALSE(status.contains("incident"));
  REQUIRE(status.at("notes").size() == 1);  // told once
  CHECK(status.at("notes")[0].at("text").get<std::string>().find("nowhere to go") !=
        std::string::npos);
  crew.die(crew.of_rank(1), kKilled);
  crew.settle();
  CHECK(crew.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 1);
  CHECK(records->front().id == 1);
}

TEST_CASE("an incident outlives its supervisor, and all time is accounted for") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.clock.advance(seconds(5));
  crew.settle();
  const auto sum = [&] {
    double parts = 0;
    const nlohmann::json status = crew.status();
    for (const auto& part : status.at("spent_s")) parts += part.get<double>();
    CHECK(parts == Approx(status.at("elapsed_s").get<double>()));
    return status;
  };
  for (int i = 0; i < 40; ++i) ++crew.step, crew.tick();
  CHECK(sum().at("spent_s").at("starting").get<double>() == Approx(5));
  CHECK(sum().at("spent_s").at("training").get<double>() == Approx(10));
  crew.die(crew.of_rank(0), kKilled);
  crew.clock.advance(seconds(2));
  crew.move();
  crew.replace_supervisor();  // in the middle of it
  CHECK(crew.status().at("incident").at("since_s").get<double>() == Approx(2));
  crew.clock.advance(seconds(3));
  crew.step -= 20;
  crew.settle();
  CHECK(crew.trains());
  const auto records = read_incidents(folder.path());
  REQUIRE(records.ok());
  REQUIRE(records->size() == 1);
  CHECK(records->front().id == 1);
  CHECK(records->front().first_step == Approx(5));
  CHECK(records->front().what.find("rank 0") == 0);
  CHECK(sum().at("spent_s").at("recovering").get<double>() == Approx(5).margin(0.3));
  const auto lost = records->front().steps_lost();
  CHECK(lost > 10);
  for (int64_t i = 0; i < lost + 8; ++i) crew.tick(), ++crew.step;  // again, and then some more
  const nlohmann::json after = sum();
  CHECK(after.at("spent_s").at("again").get<double>() ==
        Approx(0.25 * static_cast<double>(lost)).margin(0.8));
  CHECK(after.at("goodput").get<double>() ==
        Approx(after.at("spent_s").at("training").get<double>() /
               after.at("elapsed_s").get<double>()));
}

TEST_CASE("time in which all hung is not counted as training") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  for (int i = 0; i < 4; ++i) ++crew.step, crew.tick();
  crew.workers[crew.of_rank(1)].hangs = true;
  for (int i = 0; i < 20 && crew.newest == 0; ++i) crew.tick(), crew.settle();
  REQUIRE(crew.newest == 1);
  CHECK(crew.status().at("spent_s").at("recovering").get<double>() > 2);
}

TEST_CASE("who wants to hear of it is told of each incident, its end, and the job's") {
  const TempFolder folder;
  Crew crew(folder.path(), 2, 0, 1);
  crew.settle();
  crew.tick();
  crew.die(crew.of_rank(1), kKilled);
  crew.settle();
  crew.die(crew.of_rank(0), kCode(65));
  std::vector<std::string> events;
  for (const auto& json : crew.told) events.push_back(json.at("event"));
  CHECK(events == std::vector<std::string>{"incident", "survived", "incident", "end"});
  CHECK(crew.told[1].at("incident").at("survived") == true);
  CHECK(crew.told[3].at("code") == 65);
  CHECK(crew.told[3].at("reason").get<std::string>().find("rank 0") != std::string::npos);
}

TEST_CASE("metrics count incidents and say how the job is, also after its supervisor has died") {
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 3);
  crew.settle();
  crew.tick();
  crew.die(crew.of_rank(1), kKilled);
  crew.settle();
  crew.replace_supervisor();
  crew.tick();
  const std::string text = crew.ask("metrics");
  for (const std::string line : {
           "convoy_job_generation{job_name=\"job\"} 1\n",
           "convoy_job_incidents_total{job_name=\"job\",kind=\"a process was "
           "killed\",action=\"respawn\"} 1\n",
           "convoy_job_recovery_seconds_bucket{job_name=\"job\",le=\"0.5\"} 1\n",
           "convoy_job_recovery_seconds_count{job_name=\"job\"} 1\n",
           "convoy_job_replicas{job_name=\"job\"} 2\n",
           "convoy_job_replicas_wanted{job_name=\"job\"} 2\n",
           "convoy_job_ranks{job_name=\"job\",state=\"waiting\"} 4\n",
           "convoy_job_nodes{job_name=\"job\",state=\"there\"} 1\n",
       }) {
    CAPTURE(line);
    CAPTURE(text);
    CHECK(text.find(line) != std::string::npos);
  }
}

TEST_CASE("the supervisor takes any message") {
  std::mt19937_64 random(7);
  const TempFolder folder;
  Crew crew(folder.path(), 4, 1, 7);
  auto made = Supervisor::create({.job = "job", .run_dir = folder.path(), .mesh = "", .ranks = 4},
                                 crew.clock, [](int, const proto::ToNode&) {});
  REQUIRE(made.ok());
  for (int i = 0; i < 20000; ++i) {
    std::string bytes(random() % 40, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    proto::FromNode message;
    if (message.ParseFromString(bytes)) made->take(0, message);
  }
  made->tick();
}
