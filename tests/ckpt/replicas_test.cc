// Method: random holdings (replicas over any ranks, boxes of several tensors); the shares must
// cover each element of each held box exactly once, from a rank that holds it, and be the same
// whichever order nothing but the holdings decides. Balance is checked where it can be perfect.
#include <convoy/ckpt/replicas.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

namespace convoy::ckpt {
namespace {

uint64_t bytes_of(const ReplicaShare& share, const Holding& holding) {
  uint64_t bytes = dtype_bytes(holding[share.tensor].info.dtype);
  for (const int64_t extent : share.extent) bytes *= static_cast<uint64_t>(extent);
  return bytes;
}

uint64_t load(const std::vector<ReplicaShare>& shares, const Holding& holding) {
  uint64_t bytes = 0;
  for (const ReplicaShare& share : shares) bytes += bytes_of(share, holding);
  return bytes;
}

HeldTensor whole(const std::string& name, std::vector<int64_t> shape) {
  const std::vector<int64_t> zeros(shape.size(), 0);
  return {{name, Dtype::kFloat32, shape}, {{zeros, shape}}};
}

TEST_CASE("replicas of all ranks are given once and evenly") {
  // As data parallel ranks hold them: a few large, many small, a scalar.
  Holding mine = {whole("embedding", {50304, 64}), whole("scale", {}), whole("bias", {64})};
  for (int i = 0; i < 40; ++i) mine.push_back(whole("w" + std::to_string(i), {256, 64}));
  const std::vector<Holding> holdings(4, mine);
  const auto shares = spread_replicas(holdings);
  REQUIRE(shares.ok());
  uint64_t total = 0;
  for (const HeldTensor& tensor : mine) {
    uint64_t bytes = 4;
    for (const int64_t size : tensor.info.shape) bytes *= static_cast<uint64_t>(size);
    total += bytes;
  }
  uint64_t given = 0;
  for (size_t r = 0; r < 4; ++r) {
    const uint64_t bytes = load((*shares)[r], mine);
    CHECK(bytes >= total / 4 - 65536);
    CHECK(bytes <= total / 4 + 65536);
    given += bytes;
  }
  CHECK(given == total);
}

TEST_CASE("who holds much alone gives less of what is shared") {
  std::vector<Holding> holdings(2, Holding{whole("shared", {4096, 1024})});  // 16 MiB
  holdings[0].push_back(whole("own", {2048, 1024}));                         // 8 MiB
  const auto shares = spread_replicas(holdings);
  REQUIRE(shares.ok());
  CHECK(load((*shares)[0], holdings[0]) == uint64_t{12} << 20);
  CHECK(load((*shares)[1], holdings[1]) == uint64_t{12} << 20);
  // Alone on rank 0 with more than all the rest: rank 1 gives all of the shared one.
  holdings[0].push_back(whole("huge", {65536, 1024}));
  const auto other = spread_replicas(holdings);
  REQUIRE(other.ok());
  CHECK(load((*other)[1], holdings[1]) == uint64_t{16} << 20);
}

TEST_CASE("random holdings: each held element is given exactly once") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    const size_t ranks = 1 + random() % 6;
    std::vector<Holding> holdings(ranks);
    // Tensors of two dimensions, cut into a grid whose boxes go to one or several ranks.
    for (int t = 0; t < 5; ++t) {
      const int64_t cell_rows = 1 + random() % 900;
      const int64_t cell_columns = 1 + random() % 900;
      const TensorInfo info{
          "t" + std::to_string(t), Dtype::kFloat32, {2 * cell_rows, 2 * cell_columns}};
      std::vector<HeldTensor> held(ranks, {info, {}});
      for (int64_t i = 0; i < 4; ++i) {
        const HeldBox box{{i / 2 * cell_rows, i % 2 * cell_columns}, {cell_rows, cell_columns}};
        for (size_t r = 0; r < ranks; ++r) {
          if (r == i % ranks || random() % 2 == 0) held[r].boxes.push_back(box);
        }
      }
      for (size_t r = 0; r < ranks; ++r) holdings[r].push_back(held[r]);
    }
    const auto shares = spread_replicas(holdings);
    REQUIRE(shares.ok());
    REQUIRE(*shares == *spread_replicas(holdings));
    std::map<std::pair<std::string, std::vector<int64_t>>, std::set<int64_t>> rows;  // by box begin
    for (size_t r = 0; r < ranks; ++r) {
      for (const ReplicaShare& share : (*shares)[r]) {
        const HeldTensor& tensor = holdings[r][share.tensor];
        const HeldBox& box = tensor.boxes[share.box];
        CHECK(share.begin[1] == box.begin[1]);
        CHECK(share.extent[1] == box.extent[1]);
        auto& seen = rows[{tensor.info.name, box.begin}];
        for (int64_t row = share.begin[0]; row < share.begin[0] + share.extent[0]; ++row) {
          REQUIRE(row >= box.begin[0]);
          REQUIRE(row < box.begin[0] + box.extent[0]);
          REQUIRE(seen.insert(row).second);
        }
      }
    }
    for (const Holding& holding : holdings) {
      for (const HeldTensor& tensor : holding) {
        for (const HeldBox& box : tensor.boxes) {
          const auto& seen = rows[{tensor.info.name, box.begin}];
          REQUIRE(seen.size() == static_cast<size_t>(box.extent[0]));
        }
      }
    }
  }
}

TEST_CASE("ranks that disagree are named") {
  std::vector<Holding> holdings = {{whole("w", {8, 8})}, {whole("v", {2}), whole("w", {8, 9})}};
  const auto shares = spread_replicas(holdings);
  REQUIRE(!shares.ok());
  CHECK(shares.status().code() == Code::kMismatch);
  CHECK(shares.status().message().find(
            "tensor w has another shape or dtype on rank 1 than on rank 0") != std::string::npos);
  holdings[1] = {whole("v", {2}), whole("v", {2})};
  CHECK(spread_replicas(holdings).status().code() == Code::kInvalidArgument);
  holdings[1] = {{{"v", Dtype::kFloat32, {2}}, {{{1}, {2}}}}};
  CHECK(spread_replicas(holdings).status().code() == Code::kInvalidArgument);
}

}  // namespace
}  // namespace convoy::ckpt
