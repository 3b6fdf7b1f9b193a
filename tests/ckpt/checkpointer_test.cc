// Method: an agent and four ranks, forked before anything of torch runs, that meet in a file store.
// Bytes that ranks exchange follow from (from, to, round), so that each can check what it gets.
// Checkpointer: tensors whose values follow from (step, name, element) are saved from strided views
// and changed right after the fence; ranks load them with other cuts and compare. Not here: GPUs
// (train_resume_test.py --rehearse), tiers and failures of the service (service_test.cc).
#include "tests/ckpt/agent_child.h"
#include "tests/comm/forked_ranks.h"
#include "tests/temp_folder.h"
#include <convoy/ckpt/checkpointer.h>
#include <convoy/ckpt/group_exchange.h>
#include <convoy/comm/mesh_groups.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/zeros.h>
#include <catch2/catch.hpp>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include <csignal>
#include <functional>

namespace convoy::ckpt {
namespace {

constexpr int kRanks = 4;
constexpr int64_t kRows = 24, kColumns = 30;

void expect(bool condition, const std::string& what) {
  if (!condition) throw std::runtime_error(what);
}
void expect(const Status& status, const std::string& what) {
  expect(status.ok(), what + ": " + status.to_string());
}

// The groups of a mesh of all ranks.
class World {
 public:
  World(int rank, const std::string& file) {
    comm::MeshGroupsOptions options;
    options.timeout = std::chrono::seconds(60);
    groups_ =
        std::make_unique<comm::MeshGroups>(Mesh::parse("dp=4", kRanks).value(), rank,
                                           c10::make_intrusive<c10d::FileStore>(file, -1), options);
  }
  comm::Group group() { return groups_->world(); }
  void end() { groups_->shutdown(); }

 private:
  std::unique_ptr<comm::MeshGroups> groups_;
};

Exchange::Bytes bytes_for(int from, int to, int round) {
  const size_t size = round == 0 ? 0 : static_cast<size_t>((from * 7 + to * 3) % 5) * 1000 * round;
  return Exchange::Bytes(size, static_cast<std::byte>(from * 16 + to + round));
}

void exchange_bytes(int rank, const std::string& file) {
  World world(rank, file);
  GroupExchange exchange(world.group());
  for (int round = 0; round < 4; ++round) {
    const auto all = exchange.all_gather(bytes_for(rank, 0, round));
    expect(all.status(), "all_gather");
    std::vector<Exchange::Bytes> to;
    for (int r = 0; r < kRanks; ++r) {
      to.push_back(r == rank ? Exchange::Bytes() : bytes_for(rank, r, round));
    }
    const auto came = exchange.all_to_all(std::move(to));
    expect(came.status(), "all_to_all");
    for (int r = 0; r < kRanks; ++r) {
      const auto i = static_cast<size_t>(r);
      expect(all->at(i) == bytes_for(r, 0, round), "what a rank gave to all");
      expect(came->at(i) == (r == rank ? Exchange::Bytes() : bytes_for(r, rank, round)),
             "what a rank gave to another");
    }
  }
  world.end();
}

TEST_CASE("ranks exchange bytes of any size over a group") {
  const TempFolder folder;
  CHECK(all_pass(kRanks, 120, [&](int rank) { exchange_bytes(rank, folder / "store"); }));
}

at::Tensor whole(int64_t step, at::ScalarType type) {
  return (at::arange(kRows * kColumns, at::kLong) % 97 + step).reshape({kRows, kColumns}).to(type);
}

// The rank's rows of one tensor and columns of another, the latter not dense in memory; a scalar
// and a tensor that only rank 0 gives.
struct Tensors {
  Tensors(int rank, int ranks, int64_t step) {
    const int64_t rows = kRows / ranks, columns = kColumns / ranks;
    first_row = rank * rows;
    first_column = rank * columns;
    matrix = whole(step, at::kFloat).narrow(0, first_row, rows).contiguous();
    wide = whole(step + 1, at::kBFloat16);
    count = at::zeros({}, at::kLong).fill_(step);
    cut = wide.narrow(1, first_column, columns);
  }
  TensorState state(bool with_count) const {
    TensorState out = {{"matrix", {kRows, kColumns}, {{{first_row, 0}, matrix}}},
                       {"wide", {kRows, kColumns - kColumns % kRanks}, {{{0, first_column}, cut}}}};
    if (with_count) out.push_back({"count", {}, {{{}, count}}});
    return out;
  }
  void clear() {
    matrix.zero_();
    wide.zero_();
    count.zero_();
  }
  bool equals(const Tensors& other) const {
    return matrix.equal(other.matrix) && cut.equal(other.cut) && count.equal(other.count);
  }
  int64_t first_row = 0, first_column = 0;
  at::Tensor matrix, wide, cut, count;
};

void save_and_load(int rank, const std::string& file, const std::string& agent,
                   const std::string& folder, bool spread) {
  World world(rank, file);
  ClientOptions client;
  client.agent = agent;
  client.job = "test";
  client.rank = static_cast<uint32_t>(rank);
  client.world_size = client.local_size = kRanks;
  client.folder = folder;
  client.threads = 1;
  {
    auto checkpointer = Checkpointer::create({client, spread}).value();
    expect(checkpointer->prepare(Tensors(rank, kRanks, 0).state(rank == 0)), "prepare");
    for (uint64_t step = 1; step <= 3; ++step) {
      Tensors tensors(rank, kRanks, static_cast<int64_t>(step));
      expect(checkpointer->save_async(step, tensors.state(rank == 0)).status(), "save_async");
      checkpointer->fence();
      tensors.clear();
      expect(checkpointer->outcome().status(), "outcome");
    }
    expect(checkpointer->wait(3, Tier::kLocalDurable, std::chrono::seconds(60)), "wait");
    // A type that a checkpoint can't hold is named; nothing is saved.
    const TensorState odd = {{"odd", {3}, {{{0}, at::empty({3}, at::kComplexHalf)}}}};
    (void)checkpointer->save_async(4, odd);
    const Status refused = checkpointer->outcome().status();
    expect(refused.code() == Code::kInvalidArgument &&
               refused.message().find("odd") != std::string::npos,
           "a type that checkpoints don't know: " + refused.to_string());
  }
  GroupExchange exchange(world.group());
  for (const LoadPlaces& places : {LoadPlaces{agent, ""}, LoadPlaces{"", folder}}) {
    // Two halves of the ranks' rows, each loaded by two ranks.
    Tensors loaded(rank / 2, 2, 0);
    loaded.clear();
    TensorState wanted = loaded.state(true);
    wanted[1] = Tensors(rank, kRanks, 0).state(false)[1];
    const auto from = load_nearest(places, wanted, exchange);
    expect(from.status(), "load_nearest");
    expect(from->has_value() && (*from)->step == 3, "the newest step");
    expect((*from)->tier == (places.folder.empty() ? Tier::kStaged : Tier::kLocalDurable), "tier");
    expect(loaded.matrix.equal(Tensors(rank / 2, 2, 3).matrix), "the matrix");
    expect(wanted[1].boxes[0].data.equal(Tensors(rank, kRanks, 3).cut), "the columns");
    expect(loaded.count.item<int64_t>() == 3, "the scalar");
  }
  world.end();
}

TEST_CASE("tensors are saved, changed, and loaded with another cut, from memory and the folder") {
  const bool spread = GENERATE(false, true);
  const TempFolder folder;
  AgentChild agent(agent_body());
  CHECK(all_pass(kRanks, 120, [&](int rank) {
    save_and_load(rank, folder / "store", agent.name, folder / "checkpoints", spread);
  }));
  CHECK(agent.end(SIGTERM) == 0);
}

}  // namespace
}  // namespace convoy::ckpt
