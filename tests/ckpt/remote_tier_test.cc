// The tier in an object store. Method: moto's S3 server behind the proxy that fails as told
// (s3_server.py). The tier alone, with a job from memory and short deadlines; and an agent in a
// process of its own (`convoy agent`) with ranks as threads, whose steps are read back bit by bit,
// from folder, store or both. Agents are killed at every step of the tier, the store refuses, stops
// answering, breaks off. Not checked here: the store's own promises (object_store_test.cc), speed.
#include "ckpt/service/remote_tier.h"

#include "tests/ckpt/agent_child.h"
#include "tests/ckpt/s3_proxy.h"
#include "tests/ckpt/thread_exchange.h"
#include "tests/temp_folder.h"
#include <convoy/base/checksum.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/client.h>
#include <convoy/ckpt/load_nearest.h>

#include <catch2/catch.hpp>

#include <atomic>
#include <csignal>
#include <cstring>
#include <fcntl.h>
#include <functional>
#include <map>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 120s;
constexpr int64_t kRows = 700, kColumns = 900;  // of the matrix: some chunks a rank

std::string fresh(const std::string& name) {
  static int count = 0;
  return "remote-" + name + "-" + std::to_string(count++);
}

// `convoy agent` in a process of its own, which this program has not forked from with Arrow loaded.
class AgentProcess : public AgentChild {
 public:
  explicit AgentProcess(const std::string& fault = "", const char* scrub_every = "0s")
      : AgentChild([&](const std::string& name, int lifeline) {
          ::fcntl(lifeline, F_SETFD, 0);
          if (!fault.empty()) ::setenv("CONVOY_FAULT", fault.c_str(), 1);
          ::execl(CONVOY_CLI, "convoy", "agent", "--name", name.c_str(), "--lifeline",
                  std::to_string(lifeline).c_str(), "--scrub-every", scrub_every,
                  static_cast<char*>(nullptr));
        }) {}
};

// What rank `rank` of `ranks` has at `step`, or room for it.
struct RankState {
  RankState(uint64_t step, uint32_t rank, uint32_t ranks, bool empty = false) {
    const int64_t rows = kRows / ranks;
    matrix.resize(static_cast<size_t>(rows * kColumns));
    for (size_t i = 0; i < matrix.size() && !empty; ++i) {
      const bool frozen = i < matrix.size() / 2;
      matrix[i] = static_cast<float>(i % 1000) + 1000.0F * static_cast<float>(rank) +
                  (frozen ? 0 : 1e5F * static_cast<float>(step));
    }
    state.push_back({{"matrix", Dtype::kFloat32, {rows * ranks, kColumns}},
                     {{{rows * rank, 0},
                       {rows, kColumns},
                       reinterpret_cast<std::byte*>(matrix.data()),
                       {kColumns, 1}}}});
  }
  RankState(const RankState&) = delete;
  std::vector<float> matrix;
  State state;
};

ClientOptions options_for(const AgentProcess& agent, const std::string& folder,
                          const std::string& remote, uint64_t generation = 1) {
  ClientOptions o;
  o.agent = agent.name;
  o.job = "job";
  o.generation = generation;
  o.mesh = "dp=1";
  o.folder = folder;
  o.keep_newest = 2;
  o.remote = remote;
  o.threads = 1;
  return o;
}

std::unique_ptr<SnapshotClient> connected(ClientOptions options) {
  Result<std::unique_ptr<SnapshotClient>> client = SnapshotClient::connect(std::move(options));
  INFO(client.status().to_string());
  REQUIRE(client.ok());
  return std::move(client).value();
}

void save(SnapshotClient& client, uint64_t step) {
  const RankState state(step, 0, 1);
  const auto saved = client.save(step, state.state);
  INFO(saved.status().to_string());
  REQUIRE(saved.ok());
}

std::unique_ptr<Store> open(const std::string& uri) {
  auto store = open_store(uri);
  INFO(store.status().to_string());
  REQUIRE(store.ok());
  return std::move(store).value();
}

std::vector<uint64_t> committed(const std::string& where) {
  const auto store = open(where);
  std::vector<uint64_t> steps;
  const auto infos = Catalog(*store).steps();
  REQUIRE(infos.ok());
  for (const StepInfo& info : *infos) {
    if (info.status.ok()) steps.push_back(info.key.step);
  }
  return steps;
}

// Loads what the places have, on one rank, and compares; the step, 0: none.
uint64_t load(const LoadPlaces& places, NearestStep* how = nullptr) {
  RankState got(0, 0, 1, true);
  Hub hub(1);
  ThreadExchange alone(hub, 0, 1);
  const auto loaded = load_nearest(places, got.state, alone);
  INFO(loaded.status().to_string());
  REQUIRE(loaded.ok());
  if (!*loaded) return 0;
  const RankState want((*loaded)->step, 0, 1);
  CHECK(got.matrix == want.matrix);
  if (how != nullptr) *how = **loaded;
  return (*loaded)->step;
}

// A job of one rank with a stream of `chunks` chunks, from memory.
RemoteJob job_of(uint64_t step, size_t chunks, std::function<void(const Status&)> ended) {
  Part part;
  part.step = step;
  part.generation = 1;
  part.tensors = {{"w", Dtype::kBytes, {static_cast<int64_t>(chunks * kChunkBytes)}}};
  part.files = {{"snapshot", chunks * kChunkBytes}};
  auto bytes = std::make_shared<std::vector<std::byte>>(chunks * kChunkBytes);
  for (size_t i = 0; i < bytes->size(); ++i) {
    (*bytes)[i] = static_cast<std::byte>(i / kChunkBytes * 31 + step * (i % 2));
  }
  Stream stream;
  stream.bytes = bytes->size();
  stream.pieces = {{0, {0}, {static_cast<int64_t>(bytes->size())}, 0}};
  for (size_t i = 0; i < chunks; ++i) {
    const auto chunk = std::span(*bytes).subspan(i * kChunkBytes, kChunkBytes);
    stream.chunks.push_back({0, i * kChunkBytes, kChunkBytes, Codec::kRaw, xxh3(chunk)});
  }
  part.streams = {stream};
  RemoteJob job;
  job.step = step;
  job.generation = 1;
  job.ended = std::move(ended);
  job.open = [part, bytes, step]() -> Result<std::unique_ptr<StepSource>> {
    Commit head;
    head.step = step;
    head.world_size = 1;
    CONVOY_ASSIGN_OR_RETURN(
        auto source, ArenaSource::create("memory", head, {{part, {std::span(*bytes)}, bytes}}));
    return std::unique_ptr<StepSource>(std::move(source));
  };
  return job;
}

RemoteTierOptions tier_options(const std::string& uri) {
  RemoteTierOptions options;
  options.where = uri;
  options.claimant = {"job", 1, "test"};
  options.store.tries_max = 2;
  return options;
}

void wait_for(const std::function<bool()>& done) {
  REQUIRE(eventually(done));
}

}  // namespace

TEST_CASE("steps go from the folder to the store, and old ones go there too") {
  clear_s3();
  TempFolder temp;
  const std::string remote = s3_uri(fresh("steps"));
  AgentProcess agent;
  ClientOptions options = options_for(agent, temp / "ckpt", remote);
  options.remote_keep_newest = 3;
  options.remote_compress = 1;
  options.compress = GENERATE(0, 1);
  {
    auto client = connected(options);
    for (uint64_t step = 1; step <= 5; ++step) {
      save(*client, step);
      const Status durable = client->wait(step, Tier::kRemoteDurable, kPatience);
      INFO(durable.to_string());
      REQUIRE(durable.ok());
      CHECK(client->wait(step, Tier::kLocalDurable, 1s).ok());
      CHECK(client->wait(step, Tier::kReplicated, 1s).code() == Code::kFailedPrecondition);
    }
  }
  CHECK(committed(remote) == std::vector<uint64_t>{5, 4, 3});
  wait_for([&] { return committed(temp / "ckpt") == std::vector<uint64_t>{5, 4}; });
  for (const std::string& where : {remote, temp / "ckpt"}) {
    const auto store = open(where);
    Catalog catalog(*store);
    const auto commit = catalog.latest();
    REQUIRE(commit.ok());
    CHECK(catalog.verify(commit->step)->ok());
    CHECK(commit->steps.size() > 1);  // half of it has not changed
    const auto part = catalog.load_part(commit->parts[0]);
    const bool zstd = std::ranges::any_of(
        part->streams[0].chunks, [](const Chunk& chunk) { return chunk.codec == Codec::kZstd; });
    CHECK(zstd == (where == remote || options.compress > 0));
  }
  NearestStep how;
  CHECK(load({"", "", remote}, &how) == 5);
  CHECK(how.tier == Tier::kRemoteDurable);
  CHECK(load({"", temp / "ckpt", remote}, &how) == 5);
  CHECK(how.tier == Tier::kLocalDurable);
  CHECK(agent.end(SIGTERM) == 0);
  const auto store = open(remote);
  CHECK((*Catalog(*store).owner())->released);
}

TEST_CASE("a new generation's rules of the store take effect") {
  clear_s3();
  TempFolder temp;
  const std::string remote = s3_uri(fresh("rules"));
  AgentProcess agent;
  ClientOptions options = options_for(agent, temp / "ckpt", remote);
  const auto save_three = [&](uint64_t first) {
    auto client = connected(options);
    for (uint64_t step = first; step < first + 3; ++step) {
      save(*client, step);
      REQUIRE(client->wait(step, Tier::kRemoteDurable, kPatience).ok());
    }
  };
  options.remote_keep_newest = 1;
  save_three(1);
  CHECK(committed(remote) == std::vector<uint64_t>{3});
  options.generation = 2;
  options.remote_keep_newest = 2;
  options.remote_keep_every = 4;
  options.remote_compress = 1;
  options.incremental = false;
  save_three(4);
  CHECK(committed(remote) == std::vector<uint64_t>{6, 5, 4});
  const auto store = open(remote);
  Catalog catalog(*store);
  const auto commit = catalog.latest();
  CHECK(commit->steps == std::vector<uint64_t>{6});
  CHECK(catalog.load_part(commit->parts[0])->streams[0].chunks[0].codec == Codec::kZstd);
}

TEST_CASE(
    "without a folder steps go to the store from memory, and the agent's end waits for them") {
  clear_s3();
  const std::string remote = s3_uri(fresh("memory"));
  AgentProcess agent;
  {
    auto client = connected(options_for(agent, "", remote));
    save(*client, 7);
    CHECK(client->wait(7, Tier::kLocalDurable, 1s).code() == Code::kFailedPrecondition);
  }
  CHECK(agent.end(SIGTERM) == 0);
  CHECK(committed(remote) == std::vector<uint64_t>{7});
  CHECK(load({"", "", remote}) == 7);
}

TEST_CASE(
    "a folder that fails does not keep a step from the store, nor the store from the folder") {
  clear_s3();
  TempFolder temp;
  const std::string remote = s3_uri(fresh("failing"));
  AgentProcess agent;
  {
    auto client = connected(options_for(agent, "/proc/no such folder", remote));
    save(*client, 1);
    CHECK(client->wait(1, Tier::kRemoteDurable, kPatience).ok());
    CHECK(client->wait(1, Tier::kLocalDurable, kPatience).code() == Code::kInvalidArgument);
  }
  arm_s3({"denied", "/convoy/" + remote.substr(12, 10), "status", 403, 1 << 20, 0, "AccessDenied"});
  auto client = connected(options_for(agent, temp / "ckpt", remote, 2));
  save(*client, 2);
  CHECK(client->wait(2, Tier::kLocalDurable, kPatience).ok());
  const Status denied = client->wait(2, Tier::kRemoteDurable, kPatience);
  CHECK(denied.code() == Code::kInvalidArgument);
  CHECK(denied.message().find("Give credentials") != std::string::npos);
  CHECK(fired_s3("denied") > 0);
  CHECK(fired_s3("denied") < 5);  // it was not tried for ever
  clear_s3();
  save(*client, 3);  // mended: the next step gets there
  CHECK(client->wait(3, Tier::kRemoteDurable, kPatience).ok());
  CHECK(load({"", "", remote}) == 3);
  clear_s3();
}

TEST_CASE("a missing bucket is said, and training goes on") {
  TempFolder temp;
  std::string remote = s3_uri("x");
  remote.replace(remote.find("convoy"), 6, "absent");
  AgentProcess agent;
  auto client = connected(options_for(agent, temp / "ckpt", remote));
  save(*client, 1);
  const Status status = client->wait(1, Tier::kRemoteDurable, kPatience);
  CHECK(status.code() == Code::kNotFound);
  CHECK(status.message().find("there is no such bucket") != std::string::npos);
  CHECK(client->wait(1, Tier::kLocalDurable, kPatience).ok());
}

TEST_CASE("an agent that is killed anywhere leaves the store's step before it whole") {
  const std::string point =
      GENERATE(as<std::string>{}, "ckpt.remote.claim.kill", "ckpt.remote.data.kill",
               "ckpt.remote.part.kill", "ckpt.remote.commit.kill", "ckpt.remote.collect.kill");
  CAPTURE(point);
  clear_s3();
  TempFolder temp;
  const std::string remote = s3_uri(fresh("killed"));
  {
    AgentProcess agent;
    auto client = connected(options_for(agent, temp / "ckpt", remote));
    save(*client, 1);
    REQUIRE(client->wait(1, Tier::kRemoteDurable, kPatience).ok());
  }
  {
    AgentProcess agent(point);
    auto client = connected(options_for(agent, temp / "ckpt", remote, 2));
    save(*client, 2);
    const Code code = client->wait(2, Tier::kRemoteDurable, kPatience).code();
    CHECK(code == Code::kUnavailable);
    const int status = agent.join();
    CHECK((WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL));  // the fault fired
  }
  CHECK(load({"", "", remote}) == (point == "ckpt.remote.collect.kill" ? 2 : 1));
  CHECK(load({"", temp / "ckpt", remote}) == 2);
  AgentProcess agent;
  auto client = connected(options_for(agent, temp / "ckpt", remote, 3));
  save(*client, 3);
  const Status durable = client->wait(3, Tier::kRemoteDurable, kPatience);
  INFO(durable.to_string());
  CHECK(durable.ok());
  CHECK(load({"", "", remote}) == 3);
}

TEST_CASE("an upload that a former owner has left unfinished is dropped by the next one") {
  clear_s3();
  const std::string folder = fresh("cut");
  const std::string remote = s3_uri(folder);
  const auto store = open(remote);
  const auto upload = [&](uint64_t generation, uint64_t step) {
    RemoteTierOptions options = tier_options(remote);
    options.claimant.generation = generation;
    std::atomic<int> code = -1;
    {
      RemoteTier tier(options);
      RemoteJob job = job_of(step, 4, [&](const Status& s) { code = static_cast<int>(s.code()); });
      job.generation = generation;
      tier.submit(std::move(job));
    }
    CHECK(code == static_cast<int>(Code::kOk));
  };
  upload(1, 1);
  arm_s3(
      {"abort", "^DELETE /convoy/" + folder + ".*uploadId", "status", 403, 100, 0, "AccessDenied"});
  {
    auto cut = store->open_writer("data/s000000000002/c00000001-g1/n00000-000.chunks");
    REQUIRE((*cut)->append(std::vector<std::byte>(20 << 20)).ok());
  }
  CHECK(fired_s3("abort") >= 1);
  clear_s3();
  upload(2, 3);
  CHECK(seen_s3("^DELETE /convoy/" + folder + ".*uploadId") >= 1);
  CHECK(*store->drop_unfinished([](const std::string&) { return true; }) == 0);
  CHECK(committed(remote) == std::vector<uint64_t>{3, 1});
}

TEST_CASE(
    "a store that stops answering is tried again, and a newer step takes the place of one that "
    "waits") {
  clear_s3();
  const std::string folder = fresh("silent");
  RemoteTierOptions options = tier_options(s3_uri(folder));
  options.store.timeout = 2s;
  options.store.stall_limit = 1s;
  std::map<uint64_t, Status> ended;
  std::mutex mutex;
  const auto note = [&](uint64_t step) {
    return [&, step](const Status& status) {
      const std::lock_guard lock(mutex);
      ended[step] = status;
    };
  };
  {
    RemoteTier tier(options);
    tier.submit(job_of(1, 8, note(1)));
    wait_for([&] { return tier.progress().committed == 1; });
    arm_s3({"silent", "/convoy", "hang", 10000, 1 << 20});
    tier.submit(job_of(2, 8, note(2)));
    wait_for([&] { return tier.progress().tries >= 3; });  // once more after a failure
    tier.submit(job_of(3, 8, note(3)));                    // 2 gives up its turn
    wait_for([&] { return tier.progress().step == 3; });
    tier.submit(job_of(4, 8, note(4)));
    tier.submit(job_of(5, 8, note(5)));
    CHECK(fired_s3("silent") > 0);
    clear_s3();
    wait_for([&] { return tier.progress().step == 5 && tier.progress().jobs == 0; });
    CHECK(tier.progress().skipped >= 1);
  }
  CHECK(ended[1].ok());
  CHECK_FALSE(ended[2].ok());
  CHECK(ended[4].code() == Code::kAborted);
  CHECK(ended[4].message().find("step 5 was ready before the store had taken") !=
        std::string::npos);
  CHECK(ended[5].ok());
  CHECK(committed(s3_uri(folder)).front() == 5);
}

TEST_CASE("what is damaged in the folder comes from the store") {
  clear_s3();
  TempFolder temp;
  const std::string remote = s3_uri(fresh("mend"));
  {
    AgentProcess agent;
    auto client = connected(options_for(agent, temp / "ckpt", remote));
    for (uint64_t step = 1; step <= 2; ++step) {
      save(*client, step);
      REQUIRE(client->wait(step, Tier::kRemoteDurable, kPatience).ok());
    }
    agent.end(SIGTERM);
  }
  const auto local = open(temp / "ckpt");
  Catalog catalog(*local);
  const auto commit = catalog.latest();
  REQUIRE(commit->step == 2);
  const auto part = catalog.load_part(commit->parts[0]);
  const std::string file = part->files[0].path;
  const auto whole = *local->get(file, 1 << 30);
  auto bytes = whole;
  bytes[1000] ^= std::byte{1};
  REQUIRE(local->put(file, bytes).ok());
  NearestStep how;
  CHECK(load({"", temp / "ckpt", remote}, &how) == 2);
  CHECK(how.tier == Tier::kLocalDurable);
  CHECK(how.report.mended.size() == 1);
  // A part that can't be read: from the store as well, before an older step of the folder.
  REQUIRE(local->put(file, whole).ok());
  REQUIRE(local->remove(commit->parts[0].path).ok());
  CHECK(load({"", temp / "ckpt", remote}, &how) == 2);
  // And without a store the older one.
  CHECK(load({"", temp / "ckpt", ""}, &how) == 1);
}

TEST_CASE("the agent mends its folder from the store, where memory has the step no more") {
  clear_s3();
  TempFolder temp;
  AgentProcess agent("", "50ms");
  ClientOptions options = options_for(agent, temp / "ckpt", s3_uri(fresh("scrub")));
  options.keep_newest = options.remote_keep_newest = 5;
  ClientOptions before = options;  // a generation that had no store
  before.generation = 0;
  before.remote = "";
  (void)connected(before);
  auto client = connected(options);
  for (uint64_t step = 1; step <= 4; ++step) {
    save(*client, step);
    REQUIRE(client->wait(step, Tier::kRemoteDurable, kPatience).ok());
  }
  const auto local = open(temp / "ckpt");
  Catalog catalog(*local);
  const auto commit = catalog.load_commit(1);
  REQUIRE(commit.ok());
  const std::string file = catalog.load_part(commit->parts[0])->files[0].path;
  const auto whole = *local->get(file, 1 << 30);
  auto bytes = whole;
  bytes[1000] ^= std::byte{1};
  bytes[kChunkBytes + 5] ^= std::byte{4};
  REQUIRE(local->put(file, bytes).ok());
  wait_for([&] { return *local->get(file, 1 << 30) == whole; });
  CHECK(catalog.verify(1)->ok());
  CHECK(agent.end(SIGTERM) == 0);
}

TEST_CASE("a store that can't be reached fails a load only if no other place has a step") {
  clear_s3();
  TempFolder temp;
  {
    AgentProcess agent;
    auto client = connected(options_for(agent, temp / "ckpt", ""));
    save(*client, 4);
    REQUIRE(client->wait(4, Tier::kLocalDurable, kPatience).ok());
    agent.end(SIGTERM);
  }
  const std::string remote = s3_uri(fresh("away"));
  arm_s3({"away", "/convoy", "status", 403, 1 << 20, 0, "AccessDenied"});
  CHECK(load({"", temp / "ckpt", remote}) == 4);
  RankState room(0, 0, 1, true);
  Hub hub(1);
  ThreadExchange alone(hub, 0, 1);
  const auto loaded = load_nearest({"", temp / "none", remote}, room.state, alone);
  CHECK(loaded.status().code() == Code::kInvalidArgument);
  CHECK(fired_s3("away") > 0);
  clear_s3();
  CHECK(load({"", temp / "none", remote}) == 0);
}

}  // namespace convoy::ckpt
