// The coordinator's cost at many nodes: the real one, in a process of its own, over real gRPC on
// loopback, and N simulated committers in this one. Each committer joins, follows the events,
// reports as an agent does, and gives a summary of 300 tensors of its pipeline stage plus its own
// random state. Parts and data files are empty stand-ins of the right sizes (the commit lists them
// and reads none). One JSON line a figure.
//
//   ckpt_coordinator FOLDER NODES RANKS_PER_NODE STEPS
#include "ckpt/cluster/coordinator.h"
#include "ckpt/cluster/encode.h"
#include "ckpt/store/names.h"
#include <convoy/ckpt/catalog.h>
#include <convoy/rpc/channel.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
namespace fs = std::filesystem;

constexpr uint32_t kStages = 10, kTensorsPerNode = 300, kChannels = 16;
constexpr auto kPatience = 300s;

double now_s() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

void print(const std::string& label, const char* metric, double value, const char* unit) {
  std::printf(
      "{\"bench\":\"ckpt.coordinator\",\"case\":\"%s "
      "%s\",\"metric\":\"%s\",\"value\":%.6g,\"unit\":"
      "\"%s\"}\n",
      label.c_str(), metric, metric, value, unit);
  std::fflush(stdout);
}

// What the coordinator's process says at its end.
struct Cost {
  double cpu_s = 0, build_s = 0, commit_s = 0;
  uint64_t calls = 0, bytes_in = 0, bytes_out = 0;
};

[[noreturn]] void serve(const std::string& folder, const NodeIdentity& self, int port_to,
                        int end_from, int cost_to) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto store = open_local_store(folder).value();
  Catalog catalog(*store);
  std::mutex mutex;
  double commit_s = 0;
  CoordinatorOptions options;
  options.self = self;
  options.peer_timeout = kPatience;  // one machine plays them all, and is slow at it
  options.disk.claim = [&](auto done) {
    std::thread([&, done] {
      const Status status = catalog.take_over({self.job, self.generation, "bench"});
      if (!status.ok()) return done(status);
      done(CoordinatorDisk::Claimed{catalog.claim(), "bench"});
    }).detach();
  };
  options.disk.commit = [&](Commit commit, std::vector<File> files, auto done) {
    std::thread([&, commit = std::move(commit), files = std::move(files), done] {
      const double begin = now_s();
      const Status status = catalog.commit_vouched(commit, files);
      {
        const std::lock_guard lock(mutex);
        commit_s += now_s() - begin;
      }
      if (!status.ok()) std::fprintf(stderr, "%s\n", status.to_string().c_str());
      done(status);
    }).detach();
  };
  const auto coordinator = Coordinator::create(std::move(options));
  rpc::ServerOptions server_options;
  server_options.host = "127.0.0.1";
  server_options.connection.message_bytes_max = size_t{256} << 20;
  server_options.connection.keepalive = kPatience;  // as above
  auto server =
      rpc::Server::start(server_options,
                         {{"join", [=](const auto& call) { coordinator->join(call); }},
                          {"report", [=](const auto& call) { coordinator->report(call); }},
                          {"follow", [=](const auto& call) { coordinator->follow(call); }}})
          .value();
  const uint16_t port = server->port();
  [[maybe_unused]] auto done = ::write(port_to, &port, sizeof port);
  char end = 0;
  done = ::read(end_from, &end, 1);
  rusage usage{};
  ::getrusage(RUSAGE_SELF, &usage);
  const Coordinator::Counts counts = coordinator->counts();
  const Cost cost{static_cast<double>(usage.ru_utime.tv_sec + usage.ru_stime.tv_sec) +
                      static_cast<double>(usage.ru_utime.tv_usec + usage.ru_stime.tv_usec) / 1e6,
                  counts.build_s,
                  commit_s,
                  counts.calls,
                  counts.bytes_in,
                  counts.bytes_out};
  done = ::write(cost_to, &cost, sizeof cost);
  ::_exit(0);
}

// One simulated agent: a small state machine on its channel's threads.
class Committer {
 public:
  struct Shared {
    uint32_t nodes = 0, ranks_per_node = 0;
    std::atomic<uint32_t> joined{0};
    std::atomic<uint64_t> last_wrote_ns{0};
    std::atomic<uint32_t> committed{0}, failed{0};
    std::atomic<uint64_t> step{0};
  };
  Committer(Shared& shared, rpc::Channel& channel, uint32_t node)
      : shared_(shared), channel_(channel), node_(node) {}

  void join() {
    proto::Join join;
    join.set_version(kClusterVersion);
    join.set_job("bench");
    join.set_generation(1);
    join.set_world_size(shared_.nodes * shared_.ranks_per_node);
    join.set_node(node_);
    join.set_nodes(shared_.nodes);
    join.set_incarnation(node_ + 1);
    channel_.call("join", {join.SerializeAsString()}, kPatience,
                  [this](const Result<rpc::Received>& answer) {
                    proto::Joined joined;
                    if (answer.status().code() == Code::kUnavailable) return this->join();
                    if (!answer.ok() || !joined.ParseFromString(answer->header())) {
                      std::fprintf(stderr, "join: %s\n", answer.status().to_string().c_str());
                      std::_Exit(1);
                    }
                    next_ = joined.next();
                    ++shared_.joined;
                    follow();
                  });
  }
  void want(uint64_t step) {
    proto::Item item;
    item.mutable_want()->set_step(step);
    report(item);
  }

 private:
  void report(const proto::Item& item) {
    proto::Report report;
    report.set_generation(1);
    report.set_node(node_);
    report.set_incarnation(node_ + 1);
    *report.add_items() = item;
    channel_.call("report", {report.SerializeAsString()}, kPatience,
                  [](const Result<rpc::Received>& answer) {
                    if (!answer.ok() && answer.status().code() != Code::kAborted) {
                      std::fprintf(stderr, "%s\n", answer.status().to_string().c_str());
                    }
                  });
  }
  void follow() {
    proto::Follow follow;
    follow.set_generation(1);
    follow.set_node(node_);
    follow.set_incarnation(node_ + 1);
    follow.set_next(next_);
    channel_.call("follow", {follow.SerializeAsString()}, kPatience,
                  [this](const Result<rpc::Received>& answer) {
                    proto::Events events;
                    if (!answer.ok() || !events.ParseFromString(answer->header())) return;
                    next_ += static_cast<uint64_t>(events.events_size());
                    for (const proto::Event& event : events.events()) on_event(event);
                    this->follow();
                  });
  }
  void on_event(const proto::Event& event) {
    using Kind = StepEvent::Kind;
    proto::Item item;
    switch (static_cast<Kind>(event.kind())) {
      case Kind::kGranted:
        item.set_staged(event.step());
        return report(item);
      case Kind::kWrite:
        wrote(event.step(), event.claim());
        return;
      case Kind::kCommitted:
        ++shared_.committed;
        return;
      case Kind::kFailed:
        ++shared_.failed;
        return;
      default:
        return;
    }
  }
  void wrote(uint64_t step, uint64_t claim) {
    PartSummary part;
    part.step = step;
    part.ref = {part_name({step, claim}, 1, node_), 4096, node_, node_};
    part.files = {{data_name({step, claim}, 1, node_, 0), 4096}};
    part.steps = {step};
    const uint32_t per_stage = std::max<uint32_t>(1, shared_.nodes / kStages);
    const uint32_t stage = node_ / per_stage;
    for (uint32_t t = 0; t < kTensorsPerNode; ++t) {
      part.tensors.push_back({"model.layers." + std::to_string(stage * 10 + t / 30) +
                                  ".self_attention.linear_" + std::to_string(t % 30) + ".weight",
                              Dtype::kFloat32,
                              {int64_t{40} * per_stage, 1024}});
    }
    for (uint32_t r = 0; r < shared_.ranks_per_node; ++r) {
      part.tensors.push_back(
          {"rng." + std::to_string(node_ * shared_.ranks_per_node + r), Dtype::kBytes, {5000}});
    }
    part.held.assign(part.tensors.size(), true);
    proto::Item item;
    item.mutable_wrote()->set_step(step);
    set_part(*item.mutable_wrote()->mutable_part(), part);
    shared_.last_wrote_ns = static_cast<uint64_t>(now_s() * 1e9);
    report(item);
  }

  Shared& shared_;
  rpc::Channel& channel_;
  const uint32_t node_;
  uint64_t next_ = 0;
};

// What the committers say that they have written; the first claim is 1.
void make_files(const std::string& folder, uint32_t nodes, uint64_t step) {
  for (uint32_t node = 0; node < nodes; ++node) {
    for (const std::string& path :
         {part_name({step, 1}, 1, node), data_name({step, 1}, 1, node, 0)}) {
      const fs::path full = fs::path(folder) / path;
      if (node == 0) fs::create_directories(full.parent_path());
      std::ofstream(full, std::ios::binary).close();
      fs::resize_file(full, 4096);
    }
  }
}

bool wait_for(const std::function<bool()>& what) {
  for (int i = 0; i < 300'000; ++i) {
    if (what()) return true;
    ::usleep(1000);
  }
  return false;
}

int run(const std::string& folder, uint32_t nodes, uint32_t per_node, uint64_t steps) {
  std::error_code error;
  fs::remove_all(folder, error);
  fs::create_directories(folder);
  const NodeIdentity self{"bench", 1, nodes * per_node, 0, nodes, ""};
  int port_pipe[2], end_pipe[2], cost_pipe[2];
  if (::pipe(port_pipe) != 0 || ::pipe(end_pipe) != 0 || ::pipe(cost_pipe) != 0) return 1;
  const pid_t pid = ::fork();
  if (pid == 0) serve(folder, self, port_pipe[1], end_pipe[0], cost_pipe[1]);
  uint16_t port = 0;
  if (::read(port_pipe[0], &port, sizeof port) != sizeof port) return 1;
  Committer::Shared shared;
  shared.nodes = nodes;
  shared.ranks_per_node = per_node;
  rpc::ConnectionOptions connection;
  connection.message_bytes_max = size_t{256} << 20;
  connection.keepalive = kPatience;
  std::vector<std::unique_ptr<Committer>> committers;
  std::vector<std::unique_ptr<rpc::Channel>> channels;
  for (uint32_t i = 0; i < kChannels; ++i) {
    channels.push_back(
        rpc::Channel::create("127.0.0.1:" + std::to_string(port), connection).value());
  }
  double begin = now_s();
  for (uint32_t node = 0; node < nodes; ++node) {
    committers.push_back(std::make_unique<Committer>(shared, *channels[node % kChannels], node));
    committers.back()->join();
  }
  if (!wait_for([&] { return shared.joined == nodes; })) return 1;
  const std::string label =
      std::to_string(nodes * per_node) + "/" + std::to_string(nodes);  // ranks/nodes
  print(label, "join_s", now_s() - begin, "s");
  double whole_s = 0, last_s = 0;
  for (uint64_t step = 1; step <= steps; ++step) {
    shared.committed = 0;
    make_files(folder, nodes, step);
    begin = now_s();
    for (const auto& committer : committers) committer->want(step);
    if (!wait_for([&] { return shared.committed == nodes || shared.failed > 0; })) return 1;
    if (shared.failed > 0) return 1;
    whole_s += now_s() - begin;
    last_s += now_s() - static_cast<double>(shared.last_wrote_ns) / 1e9;
  }
  [[maybe_unused]] const auto told = ::write(end_pipe[1], "1", 1);
  Cost cost;
  if (::read(cost_pipe[0], &cost, sizeof cost) != sizeof cost) return 1;
  ::waitpid(pid, nullptr, 0);
  for (auto& channel : channels) channel->close();
  const auto per_step = [&](double value) { return value / static_cast<double>(steps); };
  uint64_t manifest = 0;
  for (const auto& entry : fs::directory_iterator(fs::path(folder) / "commits")) {
    manifest = std::max<uint64_t>(manifest, entry.file_size());
  }
  print(label, "step_s", per_step(whole_s), "s");
  print(label, "last_report_to_all_told_s", per_step(last_s), "s");
  print(label, "coordinator_cpu_s", per_step(cost.cpu_s), "s");
  print(label, "record_build_s", per_step(cost.build_s), "s");
  print(label, "record_write_s", per_step(cost.commit_s), "s");
  print(label, "calls", per_step(static_cast<double>(cost.calls)), "");
  print(label, "bytes_in", per_step(static_cast<double>(cost.bytes_in)), "B");
  print(label, "bytes_out", per_step(static_cast<double>(cost.bytes_out)), "B");
  print(label, "manifest_bytes", static_cast<double>(manifest), "B");
  fs::remove_all(folder, error);
  return 0;
}

}  // namespace
}  // namespace convoy::ckpt

int main(int argc, char** argv) {
  if (argc < 2) return 64;
  if (argc == 5) {
    return convoy::ckpt::run(argv[1], static_cast<uint32_t>(std::atoi(argv[2])),
                             static_cast<uint32_t>(std::atoi(argv[3])),
                             static_cast<uint64_t>(std::atoi(argv[4])));
  }
  // A process each: the next coordinator must be forked before there are gRPC threads.
  const char* const sizes[][3] = {
      {"100", "1", "3"}, {"1000", "1", "3"}, {"10000", "1", "3"}, {"1250", "8", "3"}};
  for (const auto& size : sizes) {
    const std::string command =
        std::string(argv[0]) + " " + argv[1] + " " + size[0] + " " + size[1] + " " + size[2];
    if (std::system(command.c_str()) != 0) return 1;
  }
  return 0;
}
