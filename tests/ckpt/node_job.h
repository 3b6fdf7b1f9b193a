#pragma once

#include "tests/ckpt/agent_child.h"
#include <convoy/base/fault.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/agent.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/restore.h>
#include <convoy/ckpt/step_source.h>

#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <memory>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

// A job on several nodes, all on this machine: an agent in a process of its own for each node, and
// the ranks' clients in the test's. Start agents before the test process uses gRPC itself.
namespace convoy::ckpt::node_job {

using namespace std::chrono_literals;
constexpr auto kPatience = 120s;
constexpr int64_t kElements = 300'000;  // float32, a rank

class NodeAgent : public AgentChild {
 public:
  // Without a look for leaks: the leak sanitizer's own thread dies where gRPC's threads come and
  // go. service_test.cc looks.
  explicit NodeAgent(const std::string& fault = "")
      : AgentChild(agent_body(fault, on_loopback(), [](int code) { ::_exit(code); })) {}

 private:
  static AgentOptions on_loopback() {
    AgentOptions options;
    options.listen.host = "127.0.0.1";
    return options;
  }
};

// What rank `rank` holds at `step`: its rows of "w", and bytes of its own.
struct RankState {
  RankState(uint64_t step, uint32_t rank, uint32_t ranks, int64_t elements = kElements)
      : values(static_cast<size_t>(elements)) {
    for (size_t i = 0; i < values.size(); ++i) {
      values[i] = static_cast<float>(i % 1021) + 2000.0F * static_cast<float>(rank) +
                  1e5F * static_cast<float>(step);
    }
    text = "rank " + std::to_string(rank) + " at step " + std::to_string(step);
    const auto length = static_cast<int64_t>(text.size());
    state = {{{"w", Dtype::kFloat32, {elements * ranks}},
              {{{elements * rank}, {elements}, reinterpret_cast<std::byte*>(values.data()), {1}}}},
             {{"text/" + std::to_string(rank), Dtype::kBytes, {length}},
              {{{0}, {length}, reinterpret_cast<std::byte*>(text.data()), {1}}}}};
  }
  RankState(const RankState&) = delete;
  std::vector<float> values;
  std::string text;
  State state;
};

struct Job {
  uint32_t nodes = 2, ranks_per_node = 2;
  std::string folder;
  std::function<void(ClientOptions&)> change = {};
  uint32_t ranks() const { return nodes * ranks_per_node; }

  ClientOptions options(const std::vector<std::unique_ptr<NodeAgent>>& agents, uint32_t rank,
                        uint64_t generation, const std::string& coordinator) const {
    ClientOptions o;
    o.node = rank / ranks_per_node;
    o.agent = agents[o.node]->name;
    o.job = "job";
    o.generation = generation;
    o.rank = rank;
    o.world_size = ranks();
    o.local_size = ranks_per_node;
    o.nodes = nodes;
    o.coordinator = coordinator;
    o.folder = folder;
    o.keep_newest = 3;
    o.threads = 1;
    if (change) change(o);
    return o;
  }
};

using Clients = std::vector<std::unique_ptr<SnapshotClient>>;
using Agents = std::vector<std::unique_ptr<NodeAgent>>;

inline Agents start_agents(uint32_t nodes, uint32_t faulty = 0, const std::string& fault = "") {
  Agents agents;
  for (uint32_t n = 0; n < nodes; ++n) {
    agents.push_back(std::make_unique<NodeAgent>(n == faulty ? fault : ""));
  }
  return agents;
}

inline Clients connect_all(const Job& job, const Agents& agents, uint64_t generation) {
  const Result<std::string> coordinator = agent_address(agents[0]->name);
  INFO(coordinator.status().to_string());
  REQUIRE(coordinator.ok());
  Clients clients;
  for (uint32_t rank = 0; rank < job.ranks(); ++rank) {
    auto client = SnapshotClient::connect(job.options(agents, rank, generation, *coordinator));
    INFO(client.status().to_string());
    REQUIRE(client.ok());
    clients.push_back(std::move(client).value());
  }
  return clients;
}

// Saves on all ranks, one after the other; the first failure.
inline Status save_all(const Clients& clients, uint64_t step, bool* skipped = nullptr) {
  for (const auto& client : clients) {
    const uint32_t rank = client->options().rank, ranks = client->options().world_size;
    const RankState state(step, rank, ranks);
    const auto saved = client->save(step, state.state, {{"note", std::to_string(step)}});
    if (!saved.ok()) return saved.status();
    if (skipped != nullptr) {
      if (rank == 0) *skipped = saved->skipped;
      CHECK(*skipped == saved->skipped);  // all alike
    }
  }
  return ok_status();
}

inline void check_state(StepSource& source, uint64_t step, uint32_t ranks) {
  std::vector<float> values(static_cast<size_t>(kElements) * ranks);
  const auto size = static_cast<int64_t>(values.size());
  const State wanted{{{"w", Dtype::kFloat32, {size}},
                      {{{0}, {size}, reinterpret_cast<std::byte*>(values.data()), {1}}}}};
  const Status loaded = load(source, wanted);
  INFO(loaded.to_string());
  REQUIRE(loaded.ok());
  for (uint32_t rank = 0; rank < ranks; ++rank) {
    const RankState want(step, rank, ranks);
    CHECK(std::memcmp(values.data() + static_cast<size_t>(kElements) * rank, want.values.data(),
                      want.values.size() * sizeof(float)) == 0);
  }
}

// The newest committed step of the folder, compared bit by bit; 0: none.
inline uint64_t newest_on_disk(const std::string& folder, uint32_t ranks) {
  auto store = open_local_store(folder);
  if (!store.ok()) return 0;
  const Result<Commit> commit = Catalog(**store).latest();
  if (!commit.ok()) return 0;
  CHECK(commit->world_size == ranks);
  StoreSource source(**store, *commit);
  check_state(source, commit->step, ranks);
  return commit->step;
}

}  // namespace convoy::ckpt::node_job
