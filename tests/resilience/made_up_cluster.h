#pragma once

#include "src/resilience/protocol/protocol.h"
#include "src/resilience/supervisor/supervisor.h"
#include "tests/resilience/made_up_worker.h"

#include <catch2/catch.hpp>

#include <array>
#include <csignal>
#include <cstdint>
#include <deque>
#include <map>
#include <optional>
#include <random>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace convoy::resilience {

inline constexpr int kRanks = 4, kNodes = 2;  // ranks: on each

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
    uint64_t last = 0, launcher = 0;
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
    hello.set_launcher(m.launcher);
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
    ++m.launcher;
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
    for (Nanos passed{}; passed < time; passed += std::chrono::milliseconds(250)) {
      clock.advance(std::chrono::milliseconds(250));
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
      started.mutable_started()->set_generation(order.spawn().generation());
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
        CHECK(s.rank() < s.world_size());
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

}  // namespace convoy::resilience
