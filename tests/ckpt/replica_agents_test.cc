// Peer memory with real agents in processes of their own. Nodes are killed (kill -9) and started
// again empty: every combination of up to m of a group of k + m, and one more than m. What is read
// back in the next generation, in a process of its own, is compared bit by bit. Bits are flipped in
// the memory of holders (fault points of their agents).
#include "tests/ckpt/node_job.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/peers.h>

namespace convoy::ckpt::node_job {
namespace {

// Runs in a forked child, so that this process stays free of gRPC's threads; "" or what is wrong.
std::string in_child(const std::function<std::string()>& what) {
  int ends[2];
  REQUIRE(::pipe(ends) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    const std::string text = what();
    [[maybe_unused]] const auto sent = ::write(ends[1], text.data(), text.size());
    ::_exit(0);
  }
  ::close(ends[1]);
  std::string text;
  char part[4096];
  for (ssize_t got = 0; (got = ::read(ends[0], part, sizeof part)) > 0;) {
    text.append(part, static_cast<size_t>(got));
  }
  ::close(ends[0]);
  int status = 0;
  ::waitpid(pid, &status, 0);
  return WIFEXITED(status) ? text : "the child died";
}

// Loads all of "w" from the peers' memory.
std::string read_from_peers(const std::string& coordinator, uint64_t generation, uint64_t step,
                            uint32_t ranks) {
  return in_child([&]() -> std::string {
    PeersPlace place;
    place.coordinator = coordinator;
    place.generation = generation;
    const auto source = open_in_peers(place);
    if (!source.ok()) return source.status().to_string();
    if ((*source)->commit().step != step) {
      return "step " + std::to_string((*source)->commit().step);
    }
    std::vector<float> values(static_cast<size_t>(kElements) * ranks);
    const auto size = static_cast<int64_t>(values.size());
    const State wanted{{{"w", Dtype::kFloat32, {size}},
                        {{{0}, {size}, reinterpret_cast<std::byte*>(values.data()), {1}}}}};
    const Status loaded = load(**source, wanted);
    if (!loaded.ok()) return loaded.to_string();
    for (uint32_t rank = 0; rank < ranks; ++rank) {
      const RankState want(step, rank, ranks);
      if (std::memcmp(values.data() + static_cast<size_t>(kElements) * rank, want.values.data(),
                      want.values.size() * sizeof(float)) != 0) {
        return "other bytes";
      }
    }
    return "";
  });
}

struct Replicated {
  Job job;
  Agents agents;
  uint64_t generation = 1;
  std::string coordinator;
  Clients clients;

  Replicated(uint32_t k, uint32_t m, uint32_t nodes, const std::string& fault = "") {
    job.nodes = nodes;
    job.ranks_per_node = 1;
    job.change = [k, m](ClientOptions& o) {
      o.replica_k = k;
      o.replica_m = m;
      o.peer_timeout = 2s;
    };
    agents = start_agents(nodes, 1, fault);
    connect();
  }
  void connect() {
    clients = connect_all(job, agents, generation);
    coordinator = agent_address(agents[0]->name).value();
  }
  void save(uint64_t step) {
    const Status saved = save_all(clients, step);
    INFO(saved.to_string());
    REQUIRE(saved.ok());
    for (const auto& client : clients) {
      const Status replicated = client->wait(step, Tier::kReplicated, kPatience);
      INFO(replicated.to_string());
      REQUIRE(replicated.ok());
    }
  }
  // Kills those nodes' agents, starts empty ones, and begins the next generation.
  void lose(const std::vector<uint32_t>& nodes) {
    clients.clear();
    for (const uint32_t node : nodes) agents[node]->end(SIGKILL);
    for (const uint32_t node : nodes) agents[node] = std::make_unique<NodeAgent>();
    ++generation;
    connect();
  }
  std::string read(uint64_t step) {
    return read_from_peers(coordinator, generation, step, job.ranks());
  }
};

std::vector<std::vector<uint32_t>> subsets(uint32_t nodes, uint32_t size) {
  std::vector<std::vector<uint32_t>> out;
  for (uint32_t mask = 0; mask < 1U << nodes; ++mask) {
    std::vector<uint32_t> lost;
    for (uint32_t node = 0; node < nodes; ++node) {
      if ((mask >> node & 1U) != 0) lost.push_back(node);
    }
    if (lost.size() == size) out.push_back(lost);
  }
  return out;
}

void lose_every(uint32_t k, uint32_t m) {
  Replicated job(k, m, k + m);
  uint64_t step = 0;
  for (const std::vector<uint32_t>& lost : subsets(k + m, m)) {
    CAPTURE(lost);
    // Two steps, so that the one before has gone, and each set of pieces has replaced another.
    job.save(++step);
    job.save(++step);
    job.lose(lost);
    CHECK(job.read(step) == "");
  }
}

TEST_CASE("copies: every node can be lost") {
  lose_every(1, 1);
}
TEST_CASE("2 + 1: every node can be lost") {
  lose_every(2, 1);
}
TEST_CASE("4 + 2: every two nodes can be lost") {
  lose_every(4, 2);
}

TEST_CASE("one node too many: it is said which, and an older generation is no way around") {
  Replicated job(2, 1, 3);
  job.save(1);
  job.lose({0, 2});
  const std::string said = job.read(1);
  CHECK(said.find("data loss") != std::string::npos);
  CHECK(said.find("node 0's snapshot is lost: 1 of its pieces are left, 2 are needed") !=
        std::string::npos);
  CHECK(said.find("node 2's snapshot is lost") != std::string::npos);
  CHECK(said.find("agents of nodes 0, 2 have lost their own memory") != std::string::npos);
}

TEST_CASE("bits that flip in a holder's memory are found, and other pieces take their place") {
  // Node 1's agent damages each piece that it is asked for, once.
  Replicated job(2, 2, 4, "ckpt.replica.flip@1,ckpt.replica.flip@2,ckpt.replica.flip@3");
  job.save(1);
  job.lose({0});
  CHECK(job.read(1) == "");
  // Two of four lost and one that is damaged: too much for the chunks concerned.
  Replicated other(2, 1, 3, "ckpt.replica.flip");
  other.save(1);
  other.lose({0});
  const std::string said = other.read(1);
  CHECK(said.find("data loss") != std::string::npos);
  CHECK(said.find("has changed in memory") != std::string::npos);
}

TEST_CASE("an agent killed while pieces are sent: the step before stays whole on all") {
  Replicated job(2, 1, 3, "ckpt.replica.put.kill@2");
  job.save(1);
  const Status saved = save_all(job.clients, 2);
  INFO(saved.to_string());
  const int status = job.agents[1]->join();
  CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));  // the fault fired
  const Status replicated = job.clients[0]->wait(2, Tier::kReplicated, kPatience);
  CHECK(!replicated.ok());
  CHECK(replicated.message().find("node 1") != std::string::npos);
  job.clients.clear();
  job.agents[1] = std::make_unique<NodeAgent>();
  ++job.generation;
  job.connect();
  CHECK(job.read(1) == "");
  // And the next generation saves on, from where it is.
  job.save(2);
  job.lose({2});
  CHECK(job.read(2) == "");
}

TEST_CASE("without peer memory the tier says so") {
  Replicated job(1, 0, 2);
  REQUIRE(save_all(job.clients, 1).ok());
  const Status status = job.clients[0]->wait(1, Tier::kReplicated, kPatience);
  CHECK(status.code() == Code::kFailedPrecondition);
  CHECK(status.message().find("replica_m") != std::string::npos);
}

}  // namespace
}  // namespace convoy::ckpt::node_job
