// Method: a real agent in a process of its own, ranks as threads (or, where they are to die,
// processes) with their sockets and shared memory, and a folder on the disk. What a step's state is
// follows from (step, rank), so that whatever is read back can be compared bit for bit. The table
// of slots is pure and tested alone. Not checked here: loading into other layouts
// (restore_test.cc), the folder's own rules (catalog_test.cc), speed.
#include "ckpt/service/snapshot_table.h"
#include "tests/ckpt/agent_child.h"
#include "tests/exit_rank.h"
#include "tests/temp_folder.h"
#include <convoy/base/fault.h>
#include <convoy/base/packet.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/agent.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/client.h>

#include <catch2/catch.hpp>

#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <functional>
#include <random>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 120s;
constexpr int64_t kRows = 700, kColumns = 900;  // of the matrix: some chunks a rank

// An agent in a child process. `fault`: CONVOY_FAULT's grammar, armed in the child only.
class AgentProcess : public AgentChild {
 public:
  explicit AgentProcess(const std::string& fault = "", Nanos scrub_every = Nanos(0))
      : AgentChild(agent_body(fault, scrubbing(scrub_every))) {}

 private:
  static AgentOptions scrubbing(Nanos every) {
    AgentOptions options;
    options.scrub_every = every;
    return options;
  }
};

// What rank `rank` of `ranks` has at `step`: its rows of a matrix, a scalar, bytes.
struct RankState {
  RankState(uint64_t step, uint32_t rank, uint32_t ranks, bool frozen_half = false) {
    const int64_t rows = kRows / ranks;
    matrix.resize(static_cast<size_t>(rows * kColumns));
    for (size_t i = 0; i < matrix.size(); ++i) {
      const bool frozen = frozen_half && i < matrix.size() / 2;
      matrix[i] = static_cast<float>(i % 1000) + 1000.0F * static_cast<float>(rank) +
                  (frozen ? 0 : 1e5F * static_cast<float>(step));
    }
    scalar = static_cast<double>(step);
    bytes = "state of rank " + std::to_string(rank) + " at step " + std::to_string(step);
    const auto memory = [](auto* at) { return reinterpret_cast<std::byte*>(at); };
    state.push_back({{"matrix", Dtype::kFloat32, {rows * ranks, kColumns}},
                     {{{rows * rank, 0}, {rows, kColumns}, memory(matrix.data()), {kColumns, 1}}}});
    if (rank == 0)
      state.push_back({{"scalar", Dtype::kFloat64, {}}, {{{}, {}, memory(&scalar), {}}}});
    const auto length = static_cast<int64_t>(bytes.size());
    state.push_back({{"bytes/" + std::to_string(rank), Dtype::kBytes, {length}},
                     {{{0}, {length}, memory(bytes.data()), {1}}}});
  }
  RankState(const RankState&) = delete;
  std::vector<float> matrix;
  double scalar = 0;
  std::string bytes;
  State state;
};

ClientOptions options_for(const AgentProcess& agent, const std::string& folder, uint32_t rank,
                          uint32_t ranks, uint64_t generation = 1) {
  ClientOptions o;
  o.agent = agent.name;
  o.job = "job";
  o.generation = generation;
  o.rank = rank;
  o.world_size = o.local_size = ranks;
  o.mesh = "dp=" + std::to_string(ranks);
  o.folder = folder;
  o.keep_newest = 3;
  o.threads = 1;
  return o;
}

std::unique_ptr<SnapshotClient> connected(ClientOptions options) {
  Result<std::unique_ptr<SnapshotClient>> client = SnapshotClient::connect(std::move(options));
  INFO(client.status().to_string());
  REQUIRE(client.ok());
  return std::move(client).value();
}

// Runs `body(rank)` on threads; each returns what went wrong. Catch2 is for one thread only.
void on_ranks(uint32_t ranks, const std::function<std::string(uint32_t)>& body) {
  std::vector<std::string> wrong(ranks);
  std::vector<std::thread> threads;
  for (uint32_t r = 0; r < ranks; ++r) threads.emplace_back([&, r] { wrong[r] = body(r); });
  for (std::thread& thread : threads) thread.join();
  for (const std::string& text : wrong) CHECK(text == "");
}

// The bytes of the stream's pieces are the state's, tensor by tensor.
void check_stream(std::span<const std::byte> stream, const Part& part, const Stream& s,
                  uint64_t step, uint32_t ranks, bool frozen_half = false) {
  const RankState want(step, s.rank, ranks, frozen_half);
  REQUIRE(s.pieces.size() == want.state.size());
  for (const StoredPiece& piece : s.pieces) {
    const std::string& name = part.tensors[piece.tensor].name;
    const auto at =
        std::ranges::find_if(want.state, [&](const auto& t) { return t.info.name == name; });
    REQUIRE(at != want.state.end());
    const StateBox& box = at->boxes.front();
    CHECK(piece.begin == box.begin);
    const size_t bytes = static_cast<size_t>(box.elements()) * dtype_bytes(at->info.dtype);
    CHECK(std::memcmp(stream.data() + piece.offset, box.data, bytes) == 0);
  }
}

// The newest committed step of the folder, verified chunk by chunk; 0: none.
uint64_t newest_on_disk(const std::string& folder, uint32_t ranks, bool frozen_half = false) {
  auto store = open_local_store(folder);
  if (!store.ok()) return 0;
  Catalog catalog(**store);
  const Result<Commit> commit = catalog.latest();
  if (!commit.ok()) return 0;
  CHECK(commit->world_size == ranks);
  uint32_t seen = 0;
  for (const PartRef& ref : commit->parts) {
    const Result<Part> part = catalog.load_part(ref);
    REQUIRE(part.ok());
    for (const Stream& stream : part->streams) {
      std::vector<std::byte> bytes;
      for (uint64_t i = 0; i < stream.chunks.size(); ++i) {
        const auto chunk = read_chunk(**store, *part, stream, i);
        INFO(chunk.status().to_string());
        REQUIRE(chunk.ok());
        bytes.insert(bytes.end(), chunk->begin(), chunk->end());
      }
      check_stream(bytes, *part, stream, commit->step, ranks, frozen_half);
      ++seen;
    }
  }
  CHECK(seen == ranks);
  return commit->step;
}

}  // namespace

TEST_CASE("saves come to memory and to the disk, and old steps go") {
  TempFolder temp;
  const std::string folder = temp / "ckpt";
  constexpr uint32_t kRanks = 3;
  AgentProcess agent;
  on_ranks(kRanks, [&](uint32_t rank) -> std::string {
    auto client = SnapshotClient::connect(options_for(agent, folder, rank, kRanks));
    if (!client.ok()) return client.status().to_string();
    for (uint64_t step = 10; step <= 60; step += 10) {
      const RankState state(step, rank, kRanks);
      if (step == 10 && !(*client)->prepare(state.state).ok()) return "prepare";
      const auto saved = (*client)->save(step, state.state, {{"note", std::to_string(step)}});
      if (!saved.ok()) return saved.status().to_string();
      if (saved->skipped || saved->bytes == 0) return "skipped";
      const Status staged = (*client)->wait(step, Tier::kStaged, kPatience);
      if (!staged.ok()) return staged.to_string();
    }
    const Status durable = (*client)->wait(60, Tier::kLocalDurable, kPatience);
    if (!durable.ok()) return durable.to_string();
    const Code unknown = (*client)->wait(70, Tier::kStaged, 1s).code();
    return unknown == Code::kNotFound ? "" : "step 70 was never saved";
  });
  CHECK(newest_on_disk(folder, kRanks) == 60);
  const auto held = find_in_memory(agent.name);
  REQUIRE((held.ok() && held->has_value()));
  CHECK((*held)->step == 60);
  REQUIRE((*held)->ranks.size() == kRanks);
  for (const HeldSnapshot& snapshot : (*held)->ranks) {
    check_stream(snapshot.stream, snapshot.part, snapshot.part.streams[0], 60, kRanks);
  }
  auto store = open_local_store(folder);
  Catalog catalog(**store);
  CHECK(eventually([&] { return catalog.steps()->size() == 3; }));
  CHECK(catalog.latest()->notes.at("note") == "60");
  CHECK(agent.end(SIGTERM) == 0);
}

TEST_CASE("ranks that are killed after a save lose nothing, and the next generation finds it") {
  TempFolder temp;
  const std::string folder = temp / "ckpt";
  constexpr uint32_t kRanks = 2;
  AgentProcess agent;
  std::vector<pid_t> pids;
  for (uint32_t rank = 0; rank < kRanks; ++rank) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      auto client = connected(options_for(agent, folder, rank, kRanks));
      const RankState first(1, rank, kRanks), second(2, rank, kRanks);
      const bool saved = client->save(1, first.state).ok();
      if (rank == 1 && saved) (void)client->save(2, second.state);  // rank 0 never gets there
      ::kill(::getpid(), SIGKILL);
    }
    pids.push_back(pid);
  }
  for (const pid_t pid : pids) ::waitpid(pid, nullptr, 0);
  auto held = find_in_memory(agent.name);
  REQUIRE((held.ok() && held->has_value()));
  CHECK((*held)->step == 1);
  // A new generation: the old step stays until it has one of its own, whole.
  auto zero = connected(options_for(agent, folder, 0, kRanks, 2));
  auto one = connected(options_for(agent, folder, 1, kRanks, 2));
  const RankState a(2, 0, kRanks), b(2, 1, kRanks);
  CHECK(zero->save(2, a.state).ok());
  CHECK((*find_in_memory(agent.name))->step == 1);
  CHECK(one->save(2, b.state).ok());
  CHECK((*find_in_memory(agent.name))->step == 2);
  CHECK(one->wait(2, Tier::kLocalDurable, kPatience).ok());
  CHECK(newest_on_disk(folder, kRanks) == 2);
  // The old generation can't come back.
  CHECK(SnapshotClient::connect(options_for(agent, folder, 0, kRanks, 1)).status().code() ==
        Code::kFailedPrecondition);
}

TEST_CASE("an incremental save writes what has changed") {
  TempFolder temp;
  AgentProcess agent;
  auto client = connected(options_for(agent, temp / "ckpt", 0, 1));
  uint64_t whole = 0;
  for (uint64_t step = 1; step <= 3; ++step) {
    const RankState state(step, 0, 1, /*frozen_half=*/true);
    whole = client->save(step, state.state)->bytes;
    REQUIRE(client->wait(step, Tier::kLocalDurable, kPatience).ok());
    CHECK(newest_on_disk(temp / "ckpt", 1, true) == step);
  }
  auto store = open_local_store(temp / "ckpt");
  Catalog catalog(**store);
  const Result<Part> part = catalog.load_part(catalog.latest()->parts[0]);
  uint64_t own = 0;
  for (const File& file : part->files) {
    if (file.path.find("s000000000003") != std::string::npos) own += file.bytes;
  }
  CHECK((own > 0 && own < whole * 3 / 4));
  CHECK(catalog.latest()->steps == std::vector<uint64_t>{1, 3});
}

TEST_CASE("a new generation's rules of the folder take effect") {
  TempFolder temp;
  AgentProcess agent;
  ClientOptions options = options_for(agent, temp / "ckpt", 0, 1);
  const auto steps = [&] {
    auto store = open_local_store(temp / "ckpt");
    std::vector<uint64_t> out;
    const auto infos = Catalog(**store).steps();
    for (const StepInfo& info : *infos) out.push_back(info.key.step);
    return out;
  };
  const auto become = [&](const std::vector<uint64_t>& wanted) {
    return eventually([&] { return steps() == wanted; });
  };
  const auto save = [&](SnapshotClient& client, uint64_t step) {
    REQUIRE(client.save(step, RankState(step, 0, 1, /*frozen_half=*/true).state).ok());
  };
  options.keep_newest = 1;
  auto client = connected(options);
  for (const uint64_t step : {1, 2, 3}) save(*client, step);
  REQUIRE(client->wait(3, Tier::kLocalDurable, kPatience).ok());
  CHECK(become({3}));
  // A disk that stands still, until the next generation.
  options.generation = 2;
  options.bandwidth = 1;
  client = connected(options);
  save(*client, 4);
  CHECK(client->wait(4, Tier::kLocalDurable, 200ms).code() == Code::kDeadlineExceeded);
  options.generation = 3;
  options.bandwidth = 0;
  options.keep_newest = 2;
  options.keep_every = 4;
  options.incremental = false;
  options.compress = 1;
  client = connected(options);
  for (const uint64_t step : {5, 6, 7}) save(*client, step);
  const Status durable = client->wait(7, Tier::kLocalDurable, kPatience);
  INFO(durable.to_string());
  REQUIRE(durable.ok());
  CHECK(become({7, 6, 4}));
  CHECK(newest_on_disk(temp / "ckpt", 1, true) == 7);
  auto store = open_local_store(temp / "ckpt");
  Catalog catalog(**store);
  const auto commit = catalog.latest();
  CHECK(commit->steps == std::vector<uint64_t>{7});  // refers to no other
  const Result<Part> part = catalog.load_part(commit->parts[0]);
  CHECK(part->streams[0].chunks[0].codec == Codec::kZstd);
}

TEST_CASE("a slow disk: saves wait, are skipped, or replace the one that waits") {
  const Overtake policy =
      GENERATE(Overtake::kWait, Overtake::kSkip, Overtake::kReplace, Overtake::kWaitBriefly);
  TempFolder temp;
  AgentProcess agent;
  ClientOptions options = options_for(agent, temp / "ckpt", 0, 1);
  options.bandwidth = 6 << 20;  // a step takes 0.4 s
  options.overtake = policy;
  options.incremental = false;
  auto client = connected(options);
  std::vector<bool> skipped;
  for (uint64_t step = 1; step <= 5; ++step) {
    const RankState state(step, 0, 1);
    const auto saved = client->save(step, state.state);
    INFO(saved.status().to_string());
    REQUIRE(saved.ok());
    skipped.push_back(saved->skipped);
  }
  const auto count = std::ranges::count(skipped, true);
  CHECK((policy == Overtake::kSkip ? count > 0 : count == 0));
  if (policy == Overtake::kReplace) {
    CHECK(client->wait(5, Tier::kLocalDurable, kPatience).ok());
    int replaced = 0;
    for (uint64_t step = 1; step <= 4; ++step) {
      const Status status = client->wait(step, Tier::kLocalDurable, kPatience);
      replaced += status.code() == Code::kAborted ? 1 : 0;
    }
    CHECK(replaced > 0);
  }
  CHECK(agent.end(SIGTERM) == 0);  // after all that was handed over is written
  const uint64_t newest = newest_on_disk(temp / "ckpt", 1);
  CHECK((policy == Overtake::kSkip ? newest >= 2 : newest == 5));
}

TEST_CASE("a disk that hardly moves holds nobody up who waits briefly, but for the last step") {
  TempFolder temp;
  AgentProcess agent;
  ClientOptions options = options_for(agent, temp / "ckpt", 0, 1);
  options.bandwidth = 1 << 20;  // a step takes seconds
  options.overtake = Overtake::kWaitBriefly;
  options.incremental = false;
  auto client = connected(options);
  std::vector<bool> skipped;
  for (uint64_t step = 1; step <= 5; ++step) {
    const RankState state(step, 0, 1);
    const auto saved = client->save(step, state.state, {}, /*everywhere=*/step == 5);
    INFO(saved.status().to_string());
    REQUIRE(saved.ok());
    skipped.push_back(saved->skipped);
  }
  CHECK(skipped == std::vector<bool>{false, false, true, true, false});
  CHECK(agent.end(SIGTERM) == 0);
  CHECK(newest_on_disk(temp / "ckpt", 1) == 5);
}

TEST_CASE("a step that is saved again with other content takes the first one's place") {
  TempFolder temp;
  AgentProcess agent;
  auto client = connected(options_for(agent, temp / "ckpt", 0, 1));
  const auto save = [&](uint64_t step, uint64_t content) {
    const RankState state(content, 0, 1);
    const auto saved = client->save(step, state.state);
    INFO(saved.status().to_string());
    REQUIRE(saved.ok());
    CHECK(client->wait(step, Tier::kLocalDurable, kPatience).ok());
  };
  for (uint64_t step = 1; step <= 4; ++step) save(step, step + 100);
  auto store = open_local_store(temp / "ckpt");
  Catalog catalog(**store);
  const auto becomes = [&](uint64_t step) {  // the client may have waited for the first one
    const Deadline deadline = Deadline::after(kPatience);
    while (catalog.latest()->step != step && !deadline.passed()) std::this_thread::sleep_for(5ms);
    return newest_on_disk(temp / "ckpt", 1) == step;  // with the content that the step should have
  };
  save(3, 3);  // gone back to 2: what 3 and 4 had held was wrong
  CHECK(becomes(3));
  save(4, 4);
  CHECK(becomes(4));
  CHECK(agent.end(SIGTERM) == 0);
}

TEST_CASE("an agent that is killed anywhere leaves the step before it whole") {
  const char* const points[] = {"ckpt.tier.data.kill",   "ckpt.io.open.kill",
                                "ckpt.io.allocate.kill", "ckpt.io.write.kill",
                                "ckpt.io.sync.kill",     "ckpt.tier.part.kill",
                                "ckpt.tier.commit.kill", "ckpt.tier.collect.kill"};
  const std::string point = GENERATE_REF(from_range(std::begin(points), std::end(points)));
  CAPTURE(point);
  TempFolder temp;
  const std::string folder = temp / "ckpt";
  {
    AgentProcess agent;
    auto client = connected(options_for(agent, folder, 0, 1));
    REQUIRE(client->save(1, RankState(1, 0, 1).state).ok());
    REQUIRE(client->wait(1, Tier::kLocalDurable, kPatience).ok());
  }
  {
    AgentProcess agent(point);
    auto client = connected(options_for(agent, folder, 0, 1, 2));
    REQUIRE(client->save(2, RankState(2, 0, 1).state).ok());
    // Before old steps go the step is told to be durable; the answer may come or not.
    const Code told = client->wait(2, Tier::kLocalDurable, kPatience).code();
    CHECK((told == Code::kUnavailable || (told == Code::kOk && point == "ckpt.tier.collect.kill")));
    const int status = agent.join();
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));  // the fault fired
  }
  const bool committed = point == "ckpt.tier.collect.kill";
  CHECK(newest_on_disk(folder, 1) == (committed ? 2 : 1));
  // And the next agent goes on.
  AgentProcess agent;
  auto client = connected(options_for(agent, folder, 0, 1, 3));
  REQUIRE(client->save(3, RankState(3, 0, 1).state).ok());
  const Status durable = client->wait(3, Tier::kLocalDurable, kPatience);
  INFO(durable.to_string());
  CHECK(durable.ok());
  CHECK(newest_on_disk(folder, 1) == 3);
}

TEST_CASE("a disk that fails is tried again, and never fails the save") {
  TempFolder temp;
  {
    AgentProcess agent("ckpt.io.write.enospc,ckpt.io.sync");
    auto client = connected(options_for(agent, temp / "ckpt", 0, 1));
    REQUIRE(client->save(1, RankState(1, 0, 1).state).ok());
    const Status durable = client->wait(1, Tier::kLocalDurable, kPatience);
    INFO(durable.to_string());
    CHECK(durable.ok());
    CHECK(newest_on_disk(temp / "ckpt", 1) == 1);
  }
  AgentProcess agent;
  auto client = connected(options_for(agent, "/proc/no such folder", 0, 1));
  REQUIRE(client->save(1, RankState(1, 0, 1).state).ok());
  const Status durable = client->wait(1, Tier::kLocalDurable, kPatience);
  CHECK(durable.code() == Code::kInvalidArgument);
  CHECK(durable.message().find("/proc/no such folder") != std::string::npos);
  CHECK((*find_in_memory(agent.name))->step == 1);
}

TEST_CASE("what ranks get wrong is said, and the agent goes on") {
  TempFolder temp;
  AgentProcess agent;
  auto zero = connected(options_for(agent, temp / "a", 0, 2));
  ClientOptions other = options_for(agent, temp / "b", 1, 2);
  CHECK(SnapshotClient::connect(other).status().code() == Code::kMismatch);
  other = options_for(agent, temp / "a", 1, 2);
  other.job = "another";
  CHECK(SnapshotClient::connect(other).status().code() == Code::kFailedPrecondition);
  other.agent = "nobody-" + random_hex();
  CHECK(SnapshotClient::connect(other).status().code() == Code::kUnavailable);
  // Two ranks that disagree on a tensor: neither is written, both are told.
  auto one = connected(options_for(agent, temp / "a", 1, 2));
  float x = 1;
  const auto state = [&](int64_t size) {
    return State{
        {{"t", Dtype::kFloat32, {size}}, {{{0}, {1}, reinterpret_cast<std::byte*>(&x), {1}}}}};
  };
  CHECK(zero->save(1, state(2)).ok());
  CHECK(one->save(1, state(3)).ok());
  CHECK(zero->wait(1, Tier::kLocalDurable, kPatience).code() == Code::kMismatch);
  CHECK(one->save(2, State{{{"t", Dtype::kFloat32, {2}}, {{{1}, {2}, nullptr, {1}}}}})
            .status()
            .code() == Code::kInvalidArgument);
}

TEST_CASE("nonsense of a client ends its connection only") {
  AgentProcess agent;
  std::mt19937 random(7);
  for (int i = 0; i < 300; ++i) {
    const auto socket = connect_packets(agent.name);
    REQUIRE(socket.ok());
    std::string bytes(random() % 200, '\0');
    for (char& c : bytes) c = static_cast<char>(random());
    // Half of them begin like messages.
    if (i % 2 == 0 && bytes.size() > 2) {
      bytes[0] = static_cast<char>(((random() % 6 + 1) << 3) | 2);
      bytes[1] = static_cast<char>(bytes.size() - 2);
    }
    (void)send_packet(socket->get(), bytes);
  }
  TempFolder temp;
  auto client = connected(options_for(agent, temp / "ckpt", 0, 1));
  CHECK(client->save(1, RankState(1, 0, 1).state).ok());
  CHECK(client->wait(1, Tier::kLocalDurable, kPatience).ok());
  CHECK(agent.end(SIGTERM) == 0);
}

// The step's first data file, and a byte of it changed.
std::filesystem::path damage(const std::string& folder, uint64_t step) {
  for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
    const std::string path = entry.path().string();
    if (!path.ends_with(".chunks") || path.find(std::to_string(step) + "/c") == std::string::npos) {
      continue;
    }
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(1000);
    const auto byte = static_cast<char>(file.get() ^ 1);
    file.seekp(1000);
    file.put(byte);
    return path;
  }
  return {};
}

TEST_CASE("the agent reads committed steps again, and mends those that it still has in memory") {
  TempFolder temp;
  AgentProcess agent("", 20ms);
  ClientOptions options = options_for(agent, temp / "ckpt", 0, 1);
  options.incremental = false;
  auto client = connected(options);
  const auto wait_for = [&](const std::string& counter, uint64_t least) {
    for (int i = 0; i < 6000; ++i) {
      const auto counters = agent_counters(agent.name);
      REQUIRE(counters.ok());
      const auto at = counters->find("scrub." + counter);
      if (at != counters->end() && at->second >= least) return at->second;
      std::this_thread::sleep_for(10ms);
    }
    FAIL("no " << counter);
    return uint64_t{0};
  };
  for (uint64_t step = 1; step <= 2; ++step) {
    REQUIRE(client->save(step, RankState(step, 0, 1).state).ok());
    REQUIRE(client->wait(step, Tier::kLocalDurable, kPatience).ok());
  }
  REQUIRE(!damage(temp / "ckpt", 2).empty());
  CHECK(wait_for("healed", 1) == 1);
  CHECK(newest_on_disk(temp / "ckpt", 1) == 2);
  // Step 1 has left the memory: it stays damaged, and is named with each pass.
  REQUIRE(!damage(temp / "ckpt", 1).empty());
  wait_for("left", 2);
  const auto store = open_local_store(temp / "ckpt");
  CHECK_FALSE(Catalog(**store).verify(1)->ok());
  CHECK(Catalog(**store).verify(2)->ok());
  CHECK(agent.end(SIGTERM) == 0);
}

TEST_CASE("slots: one decision for all ranks, and none is taken from a tier that reads it") {
  SnapshotTable table(2, 2);
  using Verdict = SnapshotTable::Verdict;
  const auto key = [](uint64_t step) { return SnapshotKey{1, step}; };
  CHECK(table.acquire(key(1), Overtake::kWait).slot == 0);
  CHECK(table.acquire(key(1), Overtake::kSkip).slot == 0);
  CHECK(!table.stage(key(1), 0));
  CHECK(!table.stage(key(1), 0));
  CHECK(table.stage(key(1), 1));
  table.queue(key(1));
  table.use(key(1));
  CHECK(table.acquire(key(2), Overtake::kWait).slot == 1);
  table.stage(key(2), 0);
  table.stage(key(2), 1);
  table.queue(key(2));
  CHECK(table.acquire(key(3), Overtake::kWait).verdict == Verdict::kBusy);
  CHECK(table.acquire(key(3), Overtake::kSkip).verdict == Verdict::kSkipped);
  CHECK(table.acquire(key(3), Overtake::kReplace).verdict ==
        Verdict::kSkipped);  // for the other rank
  // The tier had begun with it meanwhile.
  CHECK(table.acquire(key(4), Overtake::kReplace, [](auto&) { return false; }).verdict ==
        Verdict::kBusy);
  const auto replaced = table.acquire(key(4), Overtake::kReplace, [](auto&) { return true; });
  CHECK((replaced.slot == 1 && replaced.dropped == key(2)));
  CHECK(table.newest()->key == key(1));
  CHECK(table.pass_over(1, key(4)).empty());
  CHECK(table.lose(0) == std::vector<SnapshotKey>{key(4)});
  table.done(key(1));
  CHECK(table.newest()->key == key(1));  // stays until a newer one is whole
  CHECK(table.acquire(key(5), Overtake::kWait).slot == 1);
  table.stage(key(5), 0);
  CHECK(table.stage(key(5), 1));
  CHECK(!table.is_known(key(1)));
  CHECK(table.acquire(key(5), Overtake::kWait).verdict == Verdict::kSkipped);
  // Rank 0 has saved step 6, rank 1 never will: it is at step 7.
  CHECK(table.acquire(key(6), Overtake::kWait).slot == 0);
  table.stage(key(6), 0);
  CHECK(table.pass_over(0, key(7)).empty());
  CHECK(table.pass_over(1, key(6)).empty());
  CHECK(table.pass_over(1, key(7)) == std::vector<SnapshotKey>{key(6)});
  CHECK(table.acquire(key(7), Overtake::kWait).slot == 0);
}

}  // namespace convoy::ckpt
