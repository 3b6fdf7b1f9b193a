// ShardSpec: what each rank holds. Named examples fix the rules that people rely on (who gets the
// larger chunk, which head is where, in which order cuts nest); random specs over random meshes are
// compared, element by element, with a slow and obvious implementation (random_layout.cc), in all
// three forms: shape, boxes, intervals. Does not check movement (reshard_test).
#include "tests/mesh/random_layout.h"
#include <convoy/mesh/shard_spec.h>

#include <catch2/catch.hpp>

#include <numeric>

namespace convoy {
namespace {

using mesh_test::Random;

Mesh mesh_of(std::string_view text, int world_size) {
  return Mesh::parse(text, world_size).value();
}

std::vector<Interval> intervals(const ShardSpec& spec, const Mesh& mesh, int rank) {
  INFO(spec.to_string());
  const Status status = spec.check(mesh);
  INFO(status.to_string());
  REQUIRE(status.ok());
  return spec.local_intervals(mesh, rank);
}

TEST_CASE("chunks differ by at most one, larger ones first") {
  std::vector<int64_t> lengths;
  for (int i = 0; i < 4; ++i) lengths.push_back(even_chunk(10, 4, i).length);
  REQUIRE(lengths == std::vector<int64_t>{3, 3, 2, 2});
  REQUIRE(even_chunk(10, 4, 2) == Range{6, 2});
  REQUIRE(even_chunk(2, 4, 3) == Range{2, 0});
}

TEST_CASE("column and row shards") {
  const Mesh mesh = mesh_of("tp=2,dp=2", 4);
  const ShardSpec rows{.shape = {5, 3}, .placements = {{"tp", Placement::shard(0)}}};
  REQUIRE(rows.local_shape(mesh, 0) == std::vector<int64_t>{3, 3});
  REQUIRE(rows.local_shape(mesh, 3) == std::vector<int64_t>{2, 3});
  REQUIRE(intervals(rows, mesh, 1) == std::vector<Interval>{{9, 0, 6}});
  REQUIRE(intervals(rows, mesh, 3) == intervals(rows, mesh, 1));
  const ShardSpec columns{.shape = {2, 4}, .placements = {{"tp", Placement::shard(1)}}};
  REQUIRE(intervals(columns, mesh, 1) == std::vector<Interval>{{2, 0, 2}, {6, 2, 2}});
  REQUIRE(columns.pieces(mesh, 1).size() == 1);
}

TEST_CASE("cuts nest in the order of the placements, whatever the mesh's order") {
  const Mesh mesh = mesh_of("tp=2,dp=2", 4);  // rank = dp·2 + tp
  const ShardSpec tp_first{
      .shape = {6}, .placements = {{"tp", Placement::shard(0)}, {"dp", Placement::shard(0)}}};
  REQUIRE(intervals(tp_first, mesh, 0) == std::vector<Interval>{{0, 0, 2}});
  REQUIRE(intervals(tp_first, mesh, 1) == std::vector<Interval>{{3, 0, 2}});  // tp 1, dp 0
  REQUIRE(intervals(tp_first, mesh, 2) == std::vector<Interval>{{2, 0, 1}});  // tp 0, dp 1
  const ShardSpec dp_first{
      .shape = {6}, .placements = {{"dp", Placement::shard(0)}, {"tp", Placement::shard(0)}}};
  REQUIRE(intervals(dp_first, mesh, 1) == std::vector<Interval>{{2, 0, 1}});
}

TEST_CASE("a fused projection is cut by whole heads, kv heads go with their q heads") {
  // 6 q heads and 3 kv heads of 2 indices: q 0-11, k 12-17, v 18-23.
  const std::vector<Segment> qkv = {{.name = "q", .units = 6, .unit_size = 2},
                                    {.name = "k", .units = 3, .unit_size = 2, .follows = "q"},
                                    {.name = "v", .units = 3, .unit_size = 2, .follows = "q"}};
  const ShardSpec spec{.shape = {24}, .placements = {{"tp", Placement::shard(0, qkv)}}};
  const Mesh tp2 = mesh_of("tp=2", 2);  // q heads 0-2 need kv heads 0 and 1, 3-5 need 1 and 2
  REQUIRE(intervals(spec, tp2, 0) == std::vector<Interval>{{0, 0, 6}, {12, 6, 4}, {18, 10, 4}});
  REQUIRE(intervals(spec, tp2, 1) == std::vector<Interval>{{6, 0, 6}, {14, 6, 4}, {20, 10, 4}});
  const Mesh tp4 = mesh_of("tp=4", 4);  // q heads 2, 2, 1, 1
  REQUIRE(intervals(spec, tp4, 1) == std::vector<Interval>{{4, 0, 4}, {14, 4, 2}, {20, 6, 2}});
  REQUIRE(intervals(spec, tp4, 3) == std::vector<Interval>{{10, 0, 2}, {16, 2, 2}, {22, 4, 2}});
  REQUIRE(intervals(spec, Mesh(), 0) == std::vector<Interval>{{0, 0, 24}});
}

TEST_CASE("fewer units than shards: repeated or empty") {
  const auto holders = [](bool repeat, int64_t units, int ranks) {
    const Mesh mesh = mesh_of("tp=*", ranks);
    const ShardSpec spec{
        .shape = {units},
        .placements = {
            {"tp", Placement::shard(0, std::vector<Segment>{{.units = units, .repeat = repeat}})}}};
    std::vector<int64_t> held;
    for (int rank = 0; rank < ranks; ++rank) {
      const std::vector<Interval> mine = intervals(spec, mesh, rank);
      held.push_back(mine.empty() ? -1 : mine[0].global_begin);
    }
    return held;
  };
  REQUIRE(holders(true, 2, 4) == std::vector<int64_t>{0, 0, 1, 1});
  REQUIRE(holders(true, 3, 4) == std::vector<int64_t>{0, 0, 1, 2});
  REQUIRE(holders(false, 2, 4) == std::vector<int64_t>{0, 1, -1, -1});
  REQUIRE(holders(true, 4, 2) == std::vector<int64_t>{0, 2});
}

TEST_CASE("explicit sizes and flat cuts") {
  const Mesh mesh = mesh_of("tp=2,dp=3", 6);
  const ShardSpec sizes{.shape = {7}, .placements = {{"tp", Placement::shard(0, {1, 6})}}};
  REQUIRE(intervals(sizes, mesh, 1) == std::vector<Interval>{{1, 0, 6}});
  // Column shard [4, 2] of [4, 4], flattened to 8 elements, cut by dp into 3, 3, 2.
  const ShardSpec flat{
      .shape = {4, 4},
      .placements = {{"tp", Placement::shard(1)}, {"dp", Placement::shard_flat()}}};
  REQUIRE(flat.local_shape(mesh, 2) == std::vector<int64_t>{3});
  REQUIRE(intervals(flat, mesh, 2) == std::vector<Interval>{{5, 0, 1}, {8, 1, 2}});  // tp 0, dp 1
  const ShardSpec given{
      .shape = {4, 4},
      .placements = {{"tp", Placement::shard(1)}, {"dp", Placement::shard_flat({0, 8, 0})}}};
  REQUIRE(given.local_shape(mesh, 2) == std::vector<int64_t>{8});
  REQUIRE(intervals(given, mesh, 4).empty());
}

TEST_CASE("scalars and empty tensors") {
  const Mesh mesh = mesh_of("tp=2", 2);
  const ShardSpec scalar{.shape = {}};
  REQUIRE(intervals(scalar, mesh, 1) == std::vector<Interval>{{0, 0, 1}});
  const ShardSpec empty{.shape = {3, 0}, .placements = {{"tp", Placement::shard(0)}}};
  REQUIRE(empty.local_shape(mesh, 0) == std::vector<int64_t>{2, 0});
  REQUIRE(intervals(empty, mesh, 0).empty());
}

TEST_CASE("a spec that can't be is refused with its fault") {
  const Mesh mesh = mesh_of("tp=2,dp=2", 4);
  const auto error = [&](ShardSpec spec) {
    const Status status = spec.check(mesh);
    REQUIRE(status.code() == Code::kInvalidArgument);
    return status.message();
  };
  const auto one = [](Placement placement) {
    return ShardSpec{.shape = {4, 6}, .placements = {{"tp", std::move(placement)}}};
  };
  using Catch::Contains;
  using Segments = std::vector<Segment>;
  REQUIRE_THAT(error({.shape = {-1}}), Contains("negative"));
  REQUIRE_THAT(error({.shape = {int64_t{1} << 40, int64_t{1} << 40}}), Contains("2^60"));
  REQUIRE_THAT(error({.shape = {4}, .dtype_bytes = 0}), Contains("0 bytes"));
  REQUIRE_THAT(error(one(Placement::shard(2))), Contains("dimension 2") && Contains("tp=2,dp=2"));
  REQUIRE_THAT(error(one(Placement::shard(-1))), Contains("dimension -1"));
  REQUIRE_THAT(error(one(Placement::shard(0, {1, 1, 2}))), Contains("3 sizes for 2"));
  REQUIRE_THAT(error(one(Placement::shard(0, {5, -1}))), Contains("negative size"));
  REQUIRE_THAT(error(one(Placement::shard(0, {1, 2}))), Contains("add up to 3"));
  REQUIRE_THAT(error(one(Placement::shard(0, Segments{{.units = 3}, {.units = 2}}))),
               Contains("add up to 5 indices"));
  REQUIRE_THAT(error(one(Placement::shard(0, Segments{{.units = 4, .unit_size = 0}}))),
               Contains("units of 0"));
  REQUIRE_THAT(error(one(Placement::shard(0, Segments{{.name = "k", .units = 4, .follows = "q"}}))),
               Contains("follows \"q\""));
  REQUIRE_THAT(error(one(Placement::shard_flat({10, 10}))), Contains("20 instead of 24"));
  ShardSpec twice = one(Placement::shard(0));
  twice.placements.emplace_back("tp", Placement::shard(1));
  REQUIRE_THAT(error(twice), Contains("given twice"));
  ShardSpec late = one(Placement::shard(0));
  late.placements.emplace_back("dp", Placement::shard(0, {1, 3}));
  REQUIRE_THAT(error(late), Contains("already cut"));
  ShardSpec after = one(Placement::shard_flat());
  after.placements.emplace_back("dp", Placement::shard(0));
  REQUIRE_THAT(error(after), Contains("Put flat cuts last"));
}

TEST_CASE("partial means partial only over more than one rank") {
  const ShardSpec spec{.shape = {4}, .placements = {{"tp", Placement::partial()}}};
  REQUIRE(spec.is_partial(mesh_of("tp=2", 2)));
  REQUIRE_FALSE(spec.is_partial(mesh_of("tp=1,dp=2", 2)));
  REQUIRE(spec.to_string() == "[4] × 4 B, tp: partial(sum)");
}

// The element numbers that pieces() places at each local position; -1 where none.
std::vector<int64_t> elements_of_pieces(const ShardSpec& spec, const Mesh& mesh, int rank) {
  std::vector<int64_t> local(static_cast<size_t>(spec.local_elements(mesh, rank)), -1);
  for (const Piece& piece : spec.pieces(mesh, rank)) {
    const int64_t count =
        std::accumulate(piece.extent.begin(), piece.extent.end(), int64_t{1}, std::multiplies<>());
    for (int64_t n = 0; n < count; ++n) {
      int64_t rest = n;
      int64_t element = 0;
      int64_t position = piece.offset;
      int64_t stride = 1;
      for (size_t d = piece.extent.size(); d-- > 0;) {
        const int64_t i = rest % piece.extent[d];
        rest /= piece.extent[d];
        element += (piece.begin[d] + i) * stride;
        position += i * piece.strides[d];
        stride *= spec.shape[d];
      }
      REQUIRE(local.at(static_cast<size_t>(position)) == -1);
      local[static_cast<size_t>(position)] = element;
    }
  }
  return local;
}

void check_against_truth(const ShardSpec& spec, const Mesh& mesh) {
  REQUIRE(spec.check(mesh).to_string() == "ok");
  for (int rank = 0; rank < mesh.size(); ++rank) {
    const std::vector<int64_t> truth = mesh_test::slow_local_elements(spec, mesh, rank);
    REQUIRE(spec.local_elements(mesh, rank) == static_cast<int64_t>(truth.size()));
    REQUIRE(elements_of_pieces(spec, mesh, rank) == truth);
    std::vector<int64_t> unrolled;
    int64_t previous_end = -1;
    for (const Interval& interval : spec.local_intervals(mesh, rank)) {
      REQUIRE(interval.local_begin == static_cast<int64_t>(unrolled.size()));
      REQUIRE(interval.global_begin != previous_end);  // else it should have been merged
      previous_end = interval.global_begin + interval.length;
      for (int64_t i = 0; i < interval.length; ++i) unrolled.push_back(interval.global_begin + i);
    }
    REQUIRE(unrolled == truth);
  }
}

TEST_CASE("random specs hold what the rules say") {
  for (uint64_t seed = 1; seed <= 3000; ++seed) {
    Random random(seed);
    const Mesh mesh = mesh_test::random_mesh(random, 12);
    const std::vector<int64_t> shape = mesh_test::random_shape(random);
    const ShardSpec spec = mesh_test::random_spec(random, mesh, shape, 4);
    INFO("seed " << seed << ": " << spec.to_string() << " on " << mesh.to_string());
    check_against_truth(spec, mesh);
  }
}

}  // namespace
}  // namespace convoy
