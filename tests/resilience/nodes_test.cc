// The supervisor of a job on several machines, against made-up launchers: who is lost, who is
// refused, and that whatever is lost, whenever, leads all ranks into one generation or to an end
// for all. No processes, no clock. The lines themselves: over loopback.
#include "src/resilience/protocol/protocol.h"
#include "src/resilience/supervisor/heartbeats.h"
#include "src/resilience/supervisor/remote_nodes.h"
#include "src/resilience/supervisor/supervisor.h"
#include "tests/resilience/made_up_worker.h"
#include "tests/temp_folder.h"
#include <convoy/base/socket.h>

#include <catch2/catch.hpp>

#include <cmath>
#include <csignal>
#include <cstdint>
#include <deque>
#include <iterator>
#include <map>
#include <poll.h>
#include <random>
#include <set>

using namespace convoy;
using namespace convoy::resilience;
using std::chrono::milliseconds;
using std::chrono::seconds;

namespace {

constexpr int kRanks = 4, kNodes = 2;  // ranks: on each

// All machines' launchers and workers, which do what they are told, one order at a time.
class Cluster {
 public:
  struct Worker : MadeUpWorker {
    uint32_t local_rank = 0, local_size = 0;
  };
  struct Machine {
    std::map<uint64_t, Worker> workers{};
    std::deque<proto::ToNode> orders{};
    std::set<int> done{};
    std::optional<proto::End> end{};
    bool is_gone = false, has_line = true, is_silent = false;
    uint64_t last = 0;
  };

  Cluster(std::string run_dir, std::string mesh, int spares, uint64_t seed, int min_dp = 1)
      : run_dir_(std::move(run_dir)),
        mesh_(std::move(mesh)),
        spares_(spares),
        min_dp_(min_dp),
        random_(seed) {
    for (int n = 0; n < kNodes; ++n) {
      for (int r = 0; r < kRanks; ++r) start(n, n * kRanks + r).joined = true;
      for (int s = 0; s < spares; ++s) start(n, -1).joined = true;
    }
    replace_supervisor();
  }

  void replace_supervisor() {
    for (Machine& m : machines) m.orders.clear();
    auto made = Supervisor::create({.job = "job",
                                    .run_dir = run_dir_,
                                    .mesh = mesh_,
                                    .ranks = kRanks * kNodes,
                                    .nodes = kNodes,
                                    .spares = spares_,
                                    .min_dp = min_dp_},
                                   clock, [this](int node, const proto::ToNode& order) {
                                     Machine& m = machines[static_cast<size_t>(node)];
                                     if (m.has_line && !m.is_gone) m.orders.push_back(order);
                                   });
    REQUIRE(made.ok());
    supervisor.emplace(std::move(made).value());
    for (int n = 0; n < kNodes; ++n) hello(n);
  }
  void hello(int node) {
    const Machine& m = machines[static_cast<size_t>(node)];
    proto::FromNode message;
    proto::NodeHello& hello = *message.mutable_hello();
    hello.set_version(kProtocolVersion);
    hello.set_name("machine" + std::to_string(node));
    hello.set_address("10.0.0." + std::to_string(node));
    for (const int rank : m.done) hello.add_done(rank);
    for (const auto& [id, w] : m.workers) {
      proto::Worker& told = *hello.add_workers();
      told.set_worker(id);
      told.set_rank(w.rank);
      told.set_has_joined(w.joined);
    }
    tell(node, message);
  }
  void cut(int node) {
    Machine& m = machines[static_cast<size_t>(node)];
    m.has_line = false;
    m.orders.clear();
    supervisor->node_gone(node, "cut");
  }
  void mend(int node) {
    machines[static_cast<size_t>(node)].has_line = true;
    hello(node);
  }
  void lose(int node) {
    cut(node);
    machines[static_cast<size_t>(node)].is_gone = true;
    machines[static_cast<size_t>(node)].workers.clear();
  }
  // Another launcher in its place, which starts the ranks that it was told on its command line.
  void come_back(int node) {
    Machine& m = machines[static_cast<size_t>(node)];
    m.is_gone = false;
    m.done.clear();
    for (int r = 0; r < kRanks; ++r) start(node, node * kRanks + r);
    mend(node);
  }
  void die(int node, uint64_t id, int wait_status) {
    Machine& m = machines[static_cast<size_t>(node)];
    if (wait_status == 0) m.done.insert(m.workers[id].rank);
    m.workers.erase(id);
    proto::FromNode ended;
    ended.mutable_ended()->set_worker(id);
    ended.mutable_ended()->set_wait_status(wait_status);
    tell(node, ended);
  }
  std::pair<int, uint64_t> of_rank(int rank) const {
    for (int n = 0; n < kNodes; ++n) {
      for (const auto& [id, w] : machines[static_cast<size_t>(n)].workers) {
        if (w.rank == rank) return {n, id};
      }
    }
    return {-1, 0};
  }
  void kill(int rank) {
    const auto [node, id] = of_rank(rank);
    if (node >= 0) die(node, id, SIGKILL);
  }

  bool move() {
    for (int n = 0; n < kNodes; ++n) {
      Machine& m = machines[static_cast<size_t>(n)];
      if (m.orders.empty()) continue;
      const proto::ToNode order = m.orders.front();
      m.orders.pop_front();
      obey(n, order);
      return true;
    }
    std::vector<std::pair<int, uint64_t>> due;
    for (int n = 0; n < kNodes; ++n) {
      for (const auto& [id, w] : machines[static_cast<size_t>(n)].workers) {
        if (w.is_due()) due.emplace_back(n, id);
      }
    }
    if (due.empty()) return false;
    const auto [node, id] = due[random_() % due.size()];
    act(node, id);
    return true;
  }
  void settle() {
    for (int i = 0; i < 10000 && move(); ++i) {
    }
  }
  void let_time_pass(Nanos time) {
    for (Nanos passed{}; passed < time; passed += milliseconds(250)) {
      clock.advance(milliseconds(250));
      for (int n = 0; n < kNodes; ++n) vitals(n);
      supervisor->tick();
      settle();
    }
  }
  // How many ranks train in the newest generation.
  int training(int node) const {
    int count = 0;
    for (const auto& [id, w] : machines[static_cast<size_t>(node)].workers) {
      count += w.rank >= 0 && w.joined && w.generation == newest && !w.must_step ? 1 : 0;
    }
    return count;
  }
  std::string status() {
    proto::FromNode request;
    request.mutable_request()->set_what("status");
    tell(0, request);
    const std::deque<proto::ToNode>& orders = machines[0].orders;
    return orders.empty() ? "" : orders.back().answer().text();
  }
  bool trains() const { return training(0) + training(1) == ranks; }

  ManualClock clock;
  std::array<Machine, kNodes> machines;
  std::optional<Supervisor> supervisor;
  uint64_t newest = 0;
  int ranks = kRanks * kNodes;  // of the newest generation
  int64_t step = 10;
  bool takes_any_mesh = false;
  bool obeys = true;
  int holds = 0;   // orders
  int checks = 0;  // of machine 1, that were asked for

  void tell(int node, const proto::FromNode& message) {
    const Machine& m = machines[static_cast<size_t>(node)];
    if (m.has_line && !m.is_gone) supervisor->take(node, message);
  }

 private:
  Worker& start(int node, int rank) {
    Machine& m = machines[static_cast<size_t>(node)];
    const uint64_t id = (static_cast<uint64_t>(node) << 32U) + ++m.last;
    Worker& w = m.workers[id];
    w.rank = rank;
    return w;
  }
  void vitals(int node) {
    const Machine& m = machines[static_cast<size_t>(node)];
    if (m.is_silent) return;
    proto::FromNode message;
    message.mutable_vitals();
    for (const auto& [id, w] : m.workers) {
      proto::Vital& v = *message.mutable_vitals()->add_of();
      v.set_worker(id);
      v.set_step(step);
      v.set_step_ns(100'000'000);
      v.set_takes_any_mesh(takes_any_mesh);
    }
    tell(node, message);
  }
  void obey(int node, const proto::ToNode& order) {
    Machine& m = machines[static_cast<size_t>(node)];
    if (m.is_gone || !obeys) return;
    if (order.has_spawn()) {
      start(node, order.spawn().rank());
      proto::FromNode started;
      started.mutable_started()->mutable_worker()->set_worker((static_cast<uint64_t>(node) << 32U) +
                                                              m.last);
      started.mutable_started()->mutable_worker()->set_rank(order.spawn().rank());
      tell(node, started);
    } else if (order.has_kill()) {
      if (m.workers.contains(order.kill().worker())) die(node, order.kill().worker(), SIGKILL);
    } else if (order.has_check()) {
      checks += node;
    } else if (order.has_end()) {
      m.end = order.end();
    } else if (order.has_places()) {
      for (auto& [id, w] : m.workers) w.rank = order.places().is_resized() ? -1 : w.rank;
      for (const auto& w : order.places().workers()) {
        if (m.workers.contains(w.worker())) m.workers[w.worker()].rank = w.rank();
      }
    } else if (order.has_tell() && m.workers.contains(order.tell().worker())) {
      Worker& w = m.workers[order.tell().worker()];
      if (order.tell().what().has_summons()) {
        const auto& s = order.tell().what().summons();
        CHECK(s.generation() > w.generation);
        newest = std::max(newest, s.generation());
        if (s.generation() == newest) ranks = static_cast<int>(s.world_size());
        CHECK(static_cast<int>(s.rank()) < ranks);
        w.generation = s.generation();
        w.rank = static_cast<int>(s.rank());
        w.local_rank = s.local_rank(), w.local_size = s.local_world_size();
        w.must_get_ready = true, w.must_step = w.must_hold = false;
      } else if (order.tell().what().has_hold()) {
        w.must_hold = order.tell().what().hold().generation() == w.generation;
        ++holds;
      } else if (order.tell().what().go().generation() == w.generation) {
        w.must_step = true;
      }
    }
  }
  void act(int node, uint64_t id) {
    tell(node, machines[static_cast<size_t>(node)].workers[id].act(id, step));
  }

  std::string run_dir_, mesh_;
  int spares_, min_dp_;
  std::mt19937_64 random_;
};

// Lines without a network.
class MadeUpLines final : public Lines {
 public:
  int fd() const override { return -1; }
  std::vector<LineNews> take_news() override { return std::exchange(news, {}); }
  uint64_t open() override { return 0; }
  void send(uint64_t line, const std::string& bytes) override {
    sent[line].emplace_back().ParseFromString(bytes);
  }
  void end(uint64_t line, const Status& why) override { ended[line] = why; }

  std::vector<LineNews> news;
  std::map<uint64_t, std::vector<proto::ToNode>> sent;
  std::map<uint64_t, Status> ended;
};

proto::FromNode good_hello() {
  proto::FromNode message;
  proto::NodeHello& hello = *message.mutable_hello();
  hello.set_version(kProtocolVersion);
  hello.set_node(1);
  hello.set_job("job");
  hello.set_ranks(kRanks);
  hello.set_mesh("tp=2,dp=4");
  hello.add_workers()->set_worker((uint64_t{1} << 32U) + 1);
  return message;
}

}  // namespace

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
      job.settle();
      job.let_time_pass(seconds(3));
      job.lose(1);
      job.let_time_pass(seconds(5));
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
      job.settle();
      job.let_time_pass(seconds(3));
      job.lose(1);
      job.let_time_pass(seconds(5));
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

TEST_CASE("whatever is killed or cut on two machines, whenever, the job comes together or ends") {
  int ends = 0;
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    CAPTURE(seed);
    const TempFolder folder;
    std::mt19937_64 random(seed);
    const char* const meshes[] = {"tp=2,dp=4", "tp=2,pp=2,dp=2", "tp=8", "dp=8"};
    Cluster job(folder.path(), meshes[random() % 4], static_cast<int>(random() % 6), seed);
    job.takes_any_mesh = seed % 2 == 0;
    job.let_time_pass(seconds(1));
    for (int faults = 0; faults < 4; ++faults) {
      ++job.step;
      for (uint64_t moves = random() % 12; moves > 0 && job.move(); --moves) {
      }
      const uint64_t what = random() % 8;
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
      } else {
        job.kill(static_cast<int>(random() % (kRanks * kNodes)));
      }
    }
    if (!job.machines[1].has_line && !job.machines[1].is_gone) job.mend(1);
    job.let_time_pass(seconds(12));
    const bool has_ended = job.machines[0].end.has_value();
    ends += has_ended ? 1 : 0;
    if (has_ended) CHECK(job.machines[1].is_gone);
    if (!has_ended) CHECK(job.trains());
  }
  CHECK(ends > 0);
  CHECK(ends < 150);
}

// A message of each kind with fields at random, many of them at the limits of what they may be, or
// beyond; some with bytes changed on the way.
proto::FromNode random_message(std::mt19937_64& random, uint64_t generation) {
  const auto of = [&](auto... values) {
    const int64_t all[] = {static_cast<int64_t>(values)...};
    return all[random() % std::size(all)];
  };
  const auto worker = [&] {
    const uint64_t first = (random() % 3) << 32U;
    return random() % 8 == 0 ? random() : first + random() % 12;
  };
  const auto rank = [&] {
    return static_cast<int32_t>(of(-1, 0, 1, 7, 8, 100, INT32_MAX, INT32_MIN, random() % 8));
  };
  const auto text = [&] { return std::string(random() % 40, static_cast<char>(random() % 256)); };
  const auto real = [&] {
    const double all[] = {0, -1, 0.5, 1e300, NAN, INFINITY};
    return all[random() % std::size(all)];
  };
  proto::FromNode m;
  switch (random() % 12) {
    case 0: {
      proto::NodeHello& hello = *m.mutable_hello();
      hello.set_version(static_cast<uint32_t>(of(kProtocolVersion, kProtocolVersion, 0)));
      hello.set_name(text());
      hello.set_generation(random() % 4 == 0 ? random() % 50 : generation);
      for (uint64_t i = random() % 6; i > 0; --i) hello.add_done(rank());
      for (uint64_t i = random() % 6; i > 0; --i) {
        proto::Worker& w = *hello.add_workers();
        w.set_worker(worker());
        w.set_rank(rank());
        w.set_has_joined(random() % 2 == 0);
      }
      break;
    }
    case 1:
      m.mutable_started()->mutable_worker()->set_worker(worker());
      m.mutable_started()->mutable_worker()->set_rank(rank());
      break;
    case 2:
      m.mutable_ended()->set_worker(worker());
      m.mutable_ended()->set_wait_status(static_cast<int32_t>(of(0, 9, 256, -1, 127, 1 << 20)));
      break;
    case 3: {
      proto::Vital& v = *m.mutable_vitals()->add_of();
      v.set_worker(worker());
      v.set_step(of(-1, 0, 11, INT64_MAX, INT64_MIN));
      v.set_step_ns(of(-1, 0, 1000000, INT64_MAX));
      v.set_training(random() % 2 == 0);
      v.set_halted(random() % 2 == 0);
      v.set_takes_any_mesh(random() % 2 == 0);
      break;
    }
    case 4:
      m.mutable_request()->set_what(random() % 2 == 0 ? text() : std::string("drain 1"));
      break;
    case 5:
      m.mutable_verdict()->set_kind(static_cast<proto::Verdict::Kind>(random() % 4));
      m.mutable_verdict()->add_ranks(rank());
      m.mutable_verdict()->set_age_s(real());
      m.mutable_verdict()->set_cost(real());
      break;
    case 6:
      m.mutable_checked()->set_is_fit(random() % 2 == 0);
      m.mutable_checked()->set_text(text());
      break;
    default: {
      m.mutable_said()->set_worker(worker());
      proto::FromWorker& what = *m.mutable_said()->mutable_what();
      const uint64_t g = random() % 4 == 0 ? random() : generation;
      switch (random() % 4) {
        case 0:
          what.mutable_ready()->set_generation(g);
          what.mutable_ready()->set_store_port(static_cast<uint32_t>(random()));
          break;
        case 1:
          what.mutable_running()->set_generation(g);
          what.mutable_running()->set_step(of(-1, 0, INT64_MAX, INT64_MIN));
          what.mutable_running()->set_resumed(of(-1, 0, INT64_MAX, INT64_MIN));
          what.mutable_running()->set_loaded_s(real());
          break;
        case 2:
          what.mutable_trouble()->set_generation(g);
          what.mutable_trouble()->set_code(static_cast<uint32_t>(random() % 30));
          what.mutable_trouble()->set_text(text());
          what.mutable_trouble()->set_is_corruption(random() % 2 == 0);
          what.mutable_trouble()->set_is_held(random() % 2 == 0);
          what.mutable_trouble()->add_wrong(rank());
          break;
        default:
          what.mutable_hello()->set_worker(worker());
      }
    }
  }
  if (random() % 4 != 0) return m;
  std::string bytes = m.SerializeAsString();
  if (!bytes.empty()) bytes[random() % bytes.size()] = static_cast<char>(random());
  proto::FromNode damaged;
  return damaged.ParseFromString(bytes) ? damaged : m;
}

// It may end the job, since it believes what it is told; but it lives, and answers.
TEST_CASE("whatever launchers and workers say, the supervisor stands") {
  for (uint64_t seed = 1; seed <= 200; ++seed) {
    CAPTURE(seed);
    const TempFolder folder;
    std::mt19937_64 random(seed);
    const char* const meshes[] = {"tp=2,dp=4", "tp=2,pp=2,dp=2", "tp=8", "dp=8"};
    Cluster job(folder.path(), meshes[seed % 4], static_cast<int>(seed % 3), seed);
    job.obeys = false;  // what is ordered for such news is not what these launchers can do
    job.settle();
    for (int i = 0; i < 60; ++i) {
      job.tell(static_cast<int>(random() % kNodes), random_message(random, job.newest));
      if (random() % 4 == 0) {
        job.clock.advance(milliseconds(random() % 2000));
        job.supervisor->tick();
      }
      for (auto& m : job.machines) m.orders.clear();
    }
    if (job.supervisor->is_over()) continue;
    CHECK_THAT(job.status(), Catch::Contains("\"generation\""));
  }
}

TEST_CASE("who does not belong to the job is dropped, and told why") {
  auto owned = std::make_unique<MadeUpLines>();
  MadeUpLines& lines = *owned;
  std::vector<int> heard, gone;
  RemoteNodes nodes(
      std::move(owned), {.job = "job", .mesh = "tp=2,dp=4", .nodes = kNodes, .ranks = kRanks},
      [&](int node, const proto::FromNode&) { heard.push_back(node); },
      [&](int node, const std::string&) { gone.push_back(node); });
  uint64_t line = 0;
  const auto connect = [&](const std::string& bytes) {
    lines.news = {{LineNews::Kind::kOpened, ++line, "10.0.0.9:1", {}},
                  {LineNews::Kind::kMessage, line, bytes, {}}};
    nodes.serve();
    REQUIRE(lines.sent[line].size() == 1);
    CHECK(lines.sent[line].front().greet());
    return lines.ended.contains(line) ? lines.ended[line].message() : "";
  };
  const auto with = [&](auto&& change) {
    proto::FromNode message = good_hello();
    change(*message.mutable_hello());
    return connect(message.SerializeAsString());
  };
  using Catch::Contains;
  CHECK_THAT(connect("\xff\xff nonsense"), Contains("no message"));
  std::mt19937_64 random(3);
  for (int i = 0; i < 3000; ++i) {
    std::string bytes = good_hello().SerializeAsString();
    for (uint64_t n = 1 + random() % 3; n > 0; --n) {
      bytes[random() % bytes.size()] = static_cast<char>(random());
    }
    if (random() % 4 == 0) bytes.resize(random() % bytes.size());
    connect(bytes);
    if (!lines.ended.contains(line)) lines.news = {{LineNews::Kind::kEnded, line, "", {}}};
    nodes.serve();
  }
  heard.clear(), gone.clear();
  CHECK_THAT(connect(""), Contains("no message"));
  proto::FromNode early;
  early.mutable_ended()->set_worker(1);
  CHECK_THAT(connect(early.SerializeAsString()), Contains("says hello first"));
  CHECK_THAT(with([](auto& h) { h.set_version(1); }), Contains("version"));
  CHECK_THAT(with([](auto& h) { h.set_node(0); }), Contains("--node-rank"));
  CHECK_THAT(with([](auto& h) { h.set_node(2); }), Contains("--nnodes"));
  CHECK_THAT(with([](auto& h) { h.set_job("another"); }), Contains("'another'"));
  CHECK_THAT(with([](auto& h) { h.set_ranks(8); }), Contains("-n is 8"));
  CHECK_THAT(with([](auto& h) { h.set_mesh("dp=8"); }), Contains("--mesh"));
  CHECK_THAT(with([](auto& h) { h.add_workers()->set_worker(7); }), Contains("another machine"));
  CHECK(heard.empty());
  CHECK(with([](auto& h) { h.set_job(""); }).empty());  // it was not told one
  CHECK(heard == std::vector<int>{1});
  const uint64_t first = line;
  CHECK(with([](auto&) {}).empty());  // the same machine again
  CHECK(lines.ended.contains(first));
  lines.news = {{LineNews::Kind::kEnded, first, {}, {}}};
  nodes.serve();
  CHECK(gone.empty());
  proto::ToNode order;
  order.set_whole(true);
  nodes.send(1, order);
  CHECK(lines.sent[line].size() == 2);
  lines.news = {{LineNews::Kind::kMessage, line, "\xff", {}}};
  nodes.serve();
  CHECK(gone == std::vector<int>{1});
}

TEST_CASE("lines carry messages both ways, in order, and need the token") {
  const auto port = free_port();
  REQUIRE(port.ok());
  rpc::ConnectionOptions connection;
  connection.token = "a-secret";
  auto server = listen_lines(*port, connection);
  INFO(server.status().message());
  REQUIRE(server.ok());
  CHECK(listen_lines(*port, connection).status().code() == Code::kAlreadyExists);
  const std::string address = "127.0.0.1:" + std::to_string(*port);
  auto client = dial_lines(address, connection);
  REQUIRE(client.ok());
  const uint64_t line = (*client)->open();
  std::vector<LineNews> at_server, at_client;
  const auto await = [&](Lines& lines, std::vector<LineNews>& news, size_t count) {
    while (news.size() < count) {
      pollfd ready{lines.fd(), POLLIN, 0};
      REQUIRE(::poll(&ready, 1, 30'000) == 1);
      for (LineNews& each : lines.take_news()) news.push_back(std::move(each));
    }
  };
  for (int i = 0; i < 100; ++i) (*client)->send(line, std::to_string(i));
  await(**server, at_server, 101);
  CHECK(at_server.front().kind == LineNews::Kind::kOpened);
  for (size_t i = 0; i < 100; ++i) CHECK(at_server[i + 1].bytes == std::to_string(i));
  (*server)->send(at_server.front().line, "back");
  (*server)->end(at_server.front().line, {Code::kMismatch, "enough"});
  await(**client, at_client, 2);
  CHECK(at_client[0].bytes == "back");
  CHECK(at_client[1].kind == LineNews::Kind::kEnded);
  CHECK(at_client[1].why.code() == Code::kMismatch);
  CHECK(at_client[1].why.message() == "enough");
  auto stranger = dial_lines(address, {});
  REQUIRE(stranger.ok());
  (*stranger)->open();
  std::vector<LineNews> refused;
  await(**stranger, refused, 1);
  CHECK(refused.front().why.code() == Code::kFailedPrecondition);
}
