// The supervisor's own work by the number of ranks: the real Supervisor and made-up workers, on
// nodes of eight ranks, no sockets. By hand: supervisor_scale [RANKS ...]. One JSON
// line for each number of ranks:
//   come_s     all nodes say hello
//   second_s   a second of training: each node tells its ranks' vitals four times, and ten ticks
//   kill_s     a rank is killed, a process is started for it: from the word of it to the next step
//   node_s     a node is lost, and spares of another one take its ranks: the same
//   orders_mb  of the kill, all nodes together
// Times are the supervisor's alone: what made-up nodes and workers take is not in them. Orders are
// serialized, as they are before they are sent. The control state is kept in memory.
#include "src/resilience/protocol/messages.pb.h"
#include "src/resilience/protocol/protocol.h"
#include "src/resilience/supervisor/supervisor.h"
#include "tests/resilience/made_up_worker.h"

#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <deque>
#include <filesystem>
#include <functional>
#include <map>
#include <optional>
#include <string>
#include <unistd.h>
#include <utility>
#include <vector>

namespace convoy::resilience {
namespace {

constexpr int kPerNode = 8;

class MemoryStore : public ControlStore {
 public:
  Result<ControlState> load() override { return ControlState{}; }
  Status save(const ControlState& state) override {
    bytes_ = text_of(state).size();
    return ok_status();
  }

 private:
  size_t bytes_ = 0;
};

class Cluster {
 public:
  Cluster(int ranks, const std::string& folder) : nodes_(ranks / kPerNode) {
    for (int r = 0; r < ranks; ++r) start(r / kPerNode, r, true);
    const int replicas = ranks / kPerNode / parts_of(ranks);
    auto made = Supervisor::create(
        {.job = "job",
         .run_dir = folder,
         .mesh = "tp=8,pp=" + std::to_string(parts_of(ranks)) + ",dp=" + std::to_string(replicas),
         .ranks = ranks,
         .nodes = nodes_,
         .spares = kPerNode},
        clock_, [this](int node, const proto::ToNode& order) { hear(node, order); },
        std::make_unique<MemoryStore>());
    if (!made.ok()) {
      std::fprintf(stderr, "supervisor_scale: %s\n", made.status().message().c_str());
      std::exit(1);
    }
    supervisor_.emplace(std::move(made).value());
  }

  double come() {
    for (int n = 0; n < nodes_; ++n) {
      proto::FromNode message;
      proto::NodeHello& hello = *message.mutable_hello();
      hello.set_version(kProtocolVersion);
      hello.set_name("node" + std::to_string(n));
      hello.set_address("10.0.0.1");
      for (const uint64_t id : on_node_[n]) {
        proto::Worker& told = *hello.add_workers();
        told.set_worker(id);
        told.set_rank(workers_[id].rank);
        told.set_has_joined(true);
      }
      tell(n, message);
    }
    return taken();
  }

  double second() {
    for (int quarter = 0; quarter < 4; ++quarter) {
      ++step_;
      for (int n = 0; n < nodes_; ++n) {
        proto::FromNode message;
        for (const uint64_t id : on_node_[n]) {
          if (workers_[id].rank == kNone) continue;
          proto::Vital& v = *message.mutable_vitals()->add_of();
          v.set_worker(id);
          v.set_step(step_);
          v.set_training(true);
          v.set_step_ns(250'000'000);
        }
        tell(n, message);
      }
      clock_.advance(std::chrono::milliseconds(250));
      for (int i = 0; i < (quarter % 2 == 0 ? 2 : 3); ++i) tick();
    }
    return taken();
  }

  double kill(int rank) {
    const uint64_t id = of_rank(rank);
    const int node = node_of_[id];
    forget(id);
    proto::FromNode message;
    message.mutable_ended()->set_worker(id);
    message.mutable_ended()->set_wait_status(SIGKILL);
    tell(node, message);
    settle();
    return taken();
  }

  void start_spares() {
    for (int s = 0; s < kPerNode; ++s) {
      start(nodes_ - 1, kNone, true);
      proto::FromNode message;
      proto::Worker& told = *message.mutable_started()->mutable_worker();
      told.set_worker(last_);
      told.set_rank(kNone);
      told.set_has_joined(true);
      tell(nodes_ - 1, message);
    }
    taken();
  }

  double lose(int node) {
    for (const uint64_t id : std::vector(on_node_[node])) forget(id);
    is_gone_ = node;
    timed([&] { supervisor_->node_gone(node, "cut"); });
    for (int i = 0; i < 20; ++i) {  // two seconds of silence, in which the others are heard
      for (int n = 0; n < nodes_; ++n) {
        proto::FromNode word;
        word.mutable_vitals();
        if (n != node) supervisor_->take(n, word);
      }
      clock_.advance(std::chrono::milliseconds(100));
      tick();
    }
    settle();
    return taken();
  }

  // Whether all ranks have done a step of the newest generation.
  bool trains(int ranks) const {
    int count = 0;
    for (const auto& [id, w] : workers_) {
      count += w.rank != kNone && w.generation == newest_ && !w.must_step && !w.must_get_ready;
    }
    return count == ranks;
  }
  double orders_mb() { return static_cast<double>(std::exchange(bytes_, 0)) / 1e6; }

 private:
  static int parts_of(int ranks) { return ranks >= 1024 ? 16 : 2; }

  void timed(const std::function<void()>& work) {
    const auto begin = std::chrono::steady_clock::now();
    work();
    spent_ += std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count();
  }
  double taken() { return std::exchange(spent_, 0); }
  void tell(int node, const proto::FromNode& message) {
    timed([&] { supervisor_->take(node, message); });
  }
  void tick() {
    timed([&] { supervisor_->tick(); });
  }

  void start(int node, int rank, bool joined) {
    const uint64_t id = ++last_;
    workers_[id].rank = rank;
    workers_[id].joined = joined;
    node_of_[id] = node;
    on_node_[node].push_back(id);
  }
  void forget(uint64_t id) {
    workers_.erase(id);
    std::erase(on_node_[node_of_[id]], id);
  }
  uint64_t of_rank(int rank) const {
    for (const auto& [id, w] : workers_) {
      if (w.rank == rank) return id;
    }
    return 0;
  }

  // In the supervisor's time: only what a line to the node would do.
  void hear(int node, const proto::ToNode& order) {
    bytes_ += order.SerializeAsString().size();
    if (order.has_tell() || order.has_spawn() || order.has_kill()) {
      orders_.emplace_back(node, order);
    }
  }
  void obey(int node, const proto::ToNode& order) {
    if (order.has_spawn()) {
      start(node, order.spawn().rank(), false);
      proto::FromNode message;
      message.mutable_started()->mutable_worker()->set_worker(last_);
      message.mutable_started()->mutable_worker()->set_rank(order.spawn().rank());
      message.mutable_started()->set_generation(order.spawn().generation());
      tell(node, message);
      act(last_);
      return;
    }
    const uint64_t id = order.has_tell() ? order.tell().worker() : order.kill().worker();
    if (node == is_gone_ || !workers_.contains(id)) return;
    if (order.has_kill()) return forget(id);
    MadeUpWorker& w = workers_[id];
    if (order.tell().what().has_summons()) {
      w.rank = static_cast<int>(order.tell().what().summons().rank());
      w.generation = newest_ = order.tell().what().summons().generation();
      w.must_get_ready = true;
      ready_.push_back(id);
    } else if (order.tell().what().has_go()) {
      w.must_step = true;
      running_.push_back(id);
    }
  }
  void act(uint64_t id) {
    if (const auto at = workers_.find(id); at != workers_.end()) {
      tell(node_of_[id], at->second.act(id, step_));
    }
  }
  void settle() {
    while (!orders_.empty() || !ready_.empty() || !running_.empty()) {
      if (!orders_.empty()) {
        const auto [node, order] = orders_.front();
        orders_.pop_front();
        obey(node, order);
        continue;
      }
      std::deque<uint64_t>& due = ready_.empty() ? running_ : ready_;
      const uint64_t id = due.front();
      due.pop_front();
      act(id);
    }
  }

  int nodes_;
  ManualClock clock_;
  std::optional<Supervisor> supervisor_;
  std::map<uint64_t, MadeUpWorker> workers_;
  std::map<uint64_t, int> node_of_;
  std::map<int, std::vector<uint64_t>> on_node_;
  std::deque<std::pair<int, proto::ToNode>> orders_;
  std::deque<uint64_t> ready_, running_;
  uint64_t last_ = 0, newest_ = 0;
  int64_t step_ = 1;
  int is_gone_ = kNone;
  double spent_ = 0;
  size_t bytes_ = 0;
};

int run(int ranks) {
  const std::string folder =
      std::filesystem::temp_directory_path() / ("convoy-scale-" + std::to_string(::getpid()));
  std::filesystem::create_directories(folder);
  Cluster cluster(ranks, folder);
  const double come = cluster.come();
  cluster.second();
  const double second = cluster.second();
  cluster.orders_mb();
  const double kill = cluster.kill(ranks / 2);
  const double mb = cluster.orders_mb();
  bool trains = cluster.trains(ranks);
  cluster.start_spares();
  cluster.second();
  const double node = cluster.lose(ranks / kPerNode / 2);
  trains = trains && cluster.trains(ranks);
  std::filesystem::remove_all(folder);
  std::printf(R"({"ranks": %d, "come_s": %.4f, "second_s": %.4f, "kill_s": %.4f, "node_s": %.4f, )"
              R"("orders_mb": %.1f})"
              "\n",
              ranks, come, second, kill, node, mb);
  std::fflush(stdout);
  if (!trains) std::fprintf(stderr, "supervisor_scale: not all of %d ranks train\n", ranks);
  return trains ? 0 : 1;
}

}  // namespace
}  // namespace convoy::resilience

int main(int argc, char** argv) {
  std::vector<int> all{64, 256, 1024, 4096, 16384};
  if (argc > 1) all.clear();
  for (int i = 1; i < argc; ++i) all.push_back(std::atoi(argv[i]));
  int code = 0;
  for (const int ranks : all) code |= convoy::resilience::run(ranks);
  return code;
}
