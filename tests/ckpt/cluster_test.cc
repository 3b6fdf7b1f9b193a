// Jobs on several nodes: real agents in processes of their own, on one machine, with a folder they
// share (or not). Steps are read back bit by bit. Faults: agents killed at each step of the
// protocol, frozen, started again; ranks that die; folders that are not shared; old generations.
// What is decided in which order is tested alone in step_board_test.cc; speed and 10,000 nodes are
// the bench ckpt.coordinator's.
#include "tests/ckpt/node_job.h"
#include "tests/ckpt/thread_exchange.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/find_nodes.h>

namespace convoy::ckpt::node_job {
namespace {

bool contains(const Status& status, const std::string& text) {
  INFO(status.to_string());
  return status.message().find(text) != std::string::npos;
}

TEST_CASE("all nodes' parts make one step, and what has not changed is referred to") {
  TempFolder temp;
  const Job job{.nodes = 3, .ranks_per_node = 2, .folder = temp / "ckpt"};
  Agents agents = start_agents(3);
  Clients clients = connect_all(job, agents, 1);
  for (uint64_t step = 1; step <= 5; ++step) {
    const Status saved = save_all(clients, step);
    INFO(saved.to_string());
    REQUIRE(saved.ok());
    for (const auto& client : clients) {
      CHECK(client->wait(step, Tier::kStaged, kPatience).ok());
    }
  }
  for (const auto& client : clients) {
    const Status durable = client->wait(5, Tier::kLocalDurable, kPatience);
    INFO(durable.to_string());
    CHECK(durable.ok());
  }
  CHECK(newest_on_disk(job.folder, job.ranks()) == 5);
  auto store = open_local_store(job.folder);
  const Result<Commit> commit = Catalog(**store).latest();
  CHECK(commit->parts.size() == 3);
  CHECK(commit->notes.at("note") == "5");
  CHECK(eventually([&] { return Catalog(**store).steps()->size() == 3; }));
  // Each agent has its own node's ranks.
  for (uint32_t node = 0; node < 3; ++node) {
    const auto held = find_in_memory(agents[node]->name);
    REQUIRE((held.ok() && held->has_value()));
    CHECK((*held)->step == 5);
    CHECK((*held)->ranks.size() == 2);
  }
  for (const auto& agent : agents) CHECK(agent->end(SIGTERM) == 0);
  CHECK(Catalog(**store).owner()->value().released);
}

TEST_CASE("a slow disk on one node: all wait, skip or replace alike") {
  const Overtake policy = GENERATE(Overtake::kWait, Overtake::kSkip, Overtake::kReplace);
  TempFolder temp;
  Job job{.folder = temp / "ckpt"};
  job.change = [&](ClientOptions& o) {
    o.overtake = policy;
    o.incremental = false;
    if (o.node == 1) o.bandwidth = 4 << 20;  // 0.6 s a step
  };
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 1);
  int skips = 0;
  for (uint64_t step = 1; step <= 6; ++step) {
    bool skipped = false;
    const Status saved = save_all(clients, step, &skipped);
    INFO(saved.to_string());
    REQUIRE(saved.ok());
    skips += skipped ? 1 : 0;
  }
  CHECK((policy == Overtake::kSkip ? skips > 0 : skips == 0));
  uint64_t last = 0;
  for (uint64_t step = 1; step <= 6; ++step) {
    std::vector<Code> codes;
    for (const auto& client : clients) {
      codes.push_back(client->wait(step, Tier::kLocalDurable, kPatience).code());
    }
    CHECK(std::ranges::count(codes, codes[0]) == std::ssize(codes));  // alike on all
    if (codes[0] == Code::kOk) last = step;
  }
  CHECK((policy == Overtake::kSkip ? last >= 1 : last == 6));
  CHECK(newest_on_disk(job.folder, job.ranks()) == last);
}

TEST_CASE(
    "an agent killed at any step of the protocol: the step before stays, the next start goes on") {
  struct Kill {
    const char* point;
    uint32_t node;
    bool committed;  // whether step 2 may be there
  };
  const Kill kill = GENERATE(
      Kill{"ckpt.tier.data.kill@2", 1, false}, Kill{"ckpt.tier.part.kill@2", 1, false},
      Kill{"ckpt.node.wrote.kill@2", 1, false}, Kill{"ckpt.tier.data.kill@2", 0, false},
      Kill{"ckpt.tier.part.kill@2", 0, false}, Kill{"ckpt.node.wrote.kill@2", 0, false},
      Kill{"ckpt.coordinator.staged.kill@3", 0, false},
      Kill{"ckpt.coordinator.wrote.kill@3", 0, false},
      Kill{"ckpt.coordinator.wrote.kill@4", 0, false},
      Kill{"ckpt.coordinator.commit.kill@2", 0, false}, Kill{"ckpt.tier.commit.kill@2", 0, false},
      Kill{"ckpt.tier.collect.kill@2", 0, true});
  CAPTURE(kill.point, kill.node);
  TempFolder temp;
  Job job{.folder = temp / "ckpt"};
  job.change = [](ClientOptions& o) { o.peer_timeout = 2s; };
  {
    Agents agents = start_agents(2, kill.node, kill.point);
    Clients clients = connect_all(job, agents, 1);
    REQUIRE(save_all(clients, 1).ok());
    for (const auto& client : clients) {
      REQUIRE(client->wait(1, Tier::kLocalDurable, kPatience).ok());
    }
    (void)save_all(clients, 2);
    const int status = agents[kill.node]->join();
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));  // the fault fired
    // The other node is told: never "durable" unless it is.
    const SnapshotClient& other = *clients[kill.node == 0 ? 2 : 0];
    const Status durable =
        const_cast<SnapshotClient&>(other).wait(2, Tier::kLocalDurable, kPatience);
    INFO(durable.to_string());
    CHECK(durable.ok() == (kill.committed && durable.ok()));
    CHECK(durable.code() != Code::kDeadlineExceeded);
  }
  CHECK(newest_on_disk(job.folder, job.ranks()) == (kill.committed ? 2 : 1));
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 2);
  REQUIRE(save_all(clients, 3).ok());
  const Status durable = clients[3]->wait(3, Tier::kLocalDurable, kPatience);
  INFO(durable.to_string());
  CHECK(durable.ok());
  CHECK(newest_on_disk(job.folder, job.ranks()) == 3);
}

TEST_CASE("a node that is slow, frozen or lost is named with its ranks, and the others go on") {
  TempFolder temp;
  Job job{.folder = temp / "ckpt"};
  job.change = [](ClientOptions& o) {
    o.step_timeout = 3s;
    o.peer_timeout = 2s;
  };
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 1);
  // Ranks 2 and 3 never save step 1.
  for (uint32_t rank = 0; rank < 2; ++rank) {
    CHECK(clients[rank]->save(1, RankState(1, rank, 4).state).ok());
  }
  Status late = clients[0]->wait(1, Tier::kStaged, kPatience);
  CHECK(late.code() == Code::kDeadlineExceeded);
  CHECK(contains(late, "node 1 (ranks 2–3)"));
  // It was all right after all: the next step goes through.
  REQUIRE(save_all(clients, 2).ok());
  CHECK(clients[0]->wait(2, Tier::kLocalDurable, kPatience).ok());
  // Frozen.
  ::kill(agents[1]->pid, SIGSTOP);
  for (uint32_t rank = 0; rank < 2; ++rank) {
    CHECK(clients[rank]->save(3, RankState(3, rank, 4).state).ok());
  }
  late = clients[1]->wait(3, Tier::kLocalDurable, kPatience);
  CHECK(!late.ok());
  CHECK(contains(late, "node 1 (ranks 2–3) has gone"));
  // Until it is back nothing is begun, at once and not after a deadline.
  CHECK(contains(clients[0]->save(4, RankState(4, 0, 4).state).status(), "node 1"));
  ::kill(agents[1]->pid, SIGCONT);
  Status saved;
  for (uint64_t step = 5; step < 2000; ++step) {
    saved = save_all(clients, step);
    if (saved.ok() && clients[0]->wait(step, Tier::kLocalDurable, kPatience).ok()) break;
    std::this_thread::sleep_for(50ms);
  }
  INFO(saved.to_string());
  CHECK(saved.ok());
  CHECK(newest_on_disk(job.folder, job.ranks()) >= 5);
}

TEST_CASE("an agent that is started again joins the running generation") {
  TempFolder temp;
  Job job{.folder = temp / "ckpt"};
  job.change = [](ClientOptions& o) { o.peer_timeout = 2s; };
  Agents agents = start_agents(2);
  const std::string coordinator = agent_address(agents[0]->name).value();
  Clients clients = connect_all(job, agents, 1);
  REQUIRE(save_all(clients, 1).ok());
  REQUIRE(clients[3]->wait(1, Tier::kLocalDurable, kPatience).ok());
  agents[1].reset();
  agents[1] = std::make_unique<NodeAgent>();
  for (uint32_t rank = 2; rank < 4; ++rank) {
    auto client = SnapshotClient::connect(job.options(agents, rank, 1, coordinator));
    REQUIRE(client.ok());
    clients[rank] = std::move(client).value();
  }
  Status durable;
  for (uint64_t step = 2; step < 2000; ++step) {
    if (!save_all(clients, step).ok()) continue;
    durable = clients[0]->wait(step, Tier::kLocalDurable, kPatience);
    if (durable.ok()) break;
  }
  INFO(durable.to_string());
  CHECK(durable.ok());
  CHECK(newest_on_disk(job.folder, job.ranks()) >= 2);
}

TEST_CASE("a rank that dies in a save fails it on all nodes, with its name") {
  TempFolder temp;
  const Job job{.folder = temp / "ckpt"};
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 1);
  for (const uint32_t rank : {0U, 1U, 2U}) {
    CHECK(clients[rank]->save(1, RankState(1, rank, 4).state).ok());
  }
  clients[3].reset();
  const Status lost = clients[0]->wait(1, Tier::kStaged, kPatience);
  CHECK(lost.code() == Code::kAborted);
  CHECK(contains(lost, "rank 3"));
}

TEST_CASE("folders that are not the same are refused, naming both ways out") {
  TempFolder temp;
  Job job{.folder = "unused"};
  job.change = [&](ClientOptions& o) {
    o.folder = temp / ("disk of node " + std::to_string(o.node));
  };
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 1);
  REQUIRE(save_all(clients, 1).ok());
  for (const auto& client : clients) {
    const Status status = client->wait(1, Tier::kLocalDurable, kPatience);
    CHECK(status.code() == Code::kFailedPrecondition);
    CHECK(contains(status, "node 1 (ranks 2–3)"));
    CHECK(contains(status, "all machines mount"));
    CHECK(contains(status, "object store"));
  }
  CHECK(newest_on_disk(temp / "disk of node 0", 4) == 0);
  CHECK(clients[0]->wait(1, Tier::kStaged, kPatience).ok());  // in memory it is whole
}

TEST_CASE("nodes that disagree are told, and so is an old generation") {
  TempFolder temp;
  const Job job{.folder = temp / "ckpt"};
  Agents agents = start_agents(2);
  Clients clients = connect_all(job, agents, 2);
  // On a tensor's shape.
  for (uint32_t rank = 0; rank < 4; ++rank) {
    CHECK(clients[rank]->save(1, RankState(1, rank, rank < 2 ? 4 : 5).state).ok());
  }
  const Status differs = clients[1]->wait(1, Tier::kLocalDurable, kPatience);
  CHECK(differs.code() == Code::kMismatch);
  CHECK(contains(differs, "nodes 0 and 1 disagree on tensor w"));
  CHECK(newest_on_disk(job.folder, 4) == 0);
  // An old generation's node does not get in, and knows why.
  const std::string coordinator = agent_address(agents[0]->name).value();
  NodeAgent old;
  Agents olds;
  ClientOptions options = job.options(agents, 2, 1, coordinator);
  options.agent = old.name;
  auto client = SnapshotClient::connect(options);
  REQUIRE(client.ok());
  Status refused;
  for (int i = 0; i < 1000 && refused.code() != Code::kFailedPrecondition; ++i) {
    refused = (*client)->save(static_cast<uint64_t>(100 + i), RankState(1, 2, 4).state).status();
  }
  CHECK(contains(refused, "generation 1 is refused: this is job 'job' generation 2"));
  // And a coordinator that nobody is at: the save says so, and is not waited for for ever.
  options.coordinator = "127.0.0.1:1/none";
  options.generation = 3;
  options.timeout = 30s;
  client = SnapshotClient::connect(options);
  REQUIRE(client.ok());
  CHECK(contains((*client)->save(1, RankState(1, 2, 4).state).status(), "coordinator"));
  options.coordinator = "nonsense";
  options.generation = 4;
  CHECK(SnapshotClient::connect(options).status().code() == Code::kInvalidArgument);
}

TEST_CASE("ranks find out which of them share a node") {
  Agents agents = start_agents(2);
  std::vector<ClientOptions> options(5);
  std::vector<Status> status(5);
  std::vector<std::thread> ranks;
  Hub hub(5);
  for (uint32_t rank = 0; rank < 5; ++rank) {
    ranks.emplace_back([&, rank] {
      ThreadExchange exchange(hub, static_cast<int>(rank), 5);
      ClientOptions& mine = options[rank];
      mine.agent = agents[rank % 2]->name;
      mine.rank = rank;
      mine.world_size = 5;
      status[rank] = find_nodes(exchange, mine);
    });
  }
  for (std::thread& rank : ranks) rank.join();
  for (uint32_t rank = 0; rank < 5; ++rank) {
    CHECK(status[rank].ok());
    CHECK(options[rank].nodes == 2);
    CHECK(options[rank].node == rank % 2);
    CHECK(options[rank].local_size == (rank % 2 == 0 ? 3 : 2));
    CHECK(options[rank].coordinator == options[0].coordinator);
  }
  CHECK(options[0].coordinator == agent_address(agents[0]->name).value());
}

}  // namespace
}  // namespace convoy::ckpt::node_job
