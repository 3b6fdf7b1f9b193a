// The planner: plans are executed on real memory. Every rank of the source gets the bytes of its
// part of a tensor whose elements are all different, the plan's sends go through pack and unpack,
// and the destination must hold its part of the tensor; each byte written exactly once, nothing
// sent that the destination held already, and what single ranks plan for themselves must be the
// whole plan. On random meshes, shapes, layouts and rank maps (seeds printed), exhaustively for
// small ones, and for files as sources. Named cases fix load, nearness, merging and errors. Does
// not check what a layout holds (shard_spec_test) nor time, which the last case only prints.
#include "tests/mesh/random_layout.h"
#include <convoy/mesh/reshard.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <chrono>
#include <iostream>
#include <map>
#include <numeric>
#include <unordered_set>

namespace convoy {
namespace {

using mesh_test::pick;
using mesh_test::Random;
using Bytes = std::vector<std::byte>;

Mesh mesh_of(std::string_view text, int world_size) {
  return Mesh::parse(text, world_size).value();
}

int global_rank(const Layout& layout, int rank) {
  return layout.ranks.empty() ? rank : layout.ranks[static_cast<size_t>(rank)];
}

// Byte `i` of element `id`. Elements of 4 bytes and more are all different; smaller ones nearly.
std::byte content(int64_t id, int64_t i) {
  const uint64_t mixed =
      i < 4 ? static_cast<uint64_t>(id) >> (8 * i) : static_cast<uint64_t>(id * 31 + i);
  return static_cast<std::byte>((mixed ^ (static_cast<uint64_t>(id) >> 8)) & 0xff);
}

// One side of the truth: which elements each global rank holds, in local order.
using Held = std::map<int, std::vector<int64_t>>;

Held held_by(const Layout& layout) {
  Held held;
  for (int rank = 0; rank < layout.mesh.size(); ++rank) {
    held[global_rank(layout, rank)] =
        mesh_test::slow_local_elements(layout.spec, layout.mesh, rank);
  }
  return held;
}

Bytes bytes_of(const std::vector<int64_t>& elements, int64_t dtype_bytes) {
  Bytes bytes;
  for (const int64_t id : elements) {
    for (int64_t i = 0; i < dtype_bytes; ++i) bytes.push_back(content(id, i));
  }
  return bytes;
}

// The element numbers that a run covers in `elements`; the run must lie inside.
std::vector<int64_t> covered(const std::vector<int64_t>& elements, int64_t offset, int64_t bytes,
                             int64_t dtype_bytes) {
  REQUIRE(offset >= 0);
  REQUIRE(bytes > 0);
  REQUIRE(offset % dtype_bytes == 0);
  REQUIRE(bytes % dtype_bytes == 0);
  const int64_t first = offset / dtype_bytes;
  const int64_t last = first + bytes / dtype_bytes;
  REQUIRE(last <= static_cast<int64_t>(elements.size()));
  return {elements.begin() + first, elements.begin() + last};
}

// Applies `transfers` and counts the writes of each destination byte.
void execute(const std::vector<Transfer>& transfers, const std::map<int, Bytes>& sources,
             std::map<int, Bytes>& destinations, std::map<int, std::vector<int>>& writes) {
  for (const Transfer& transfer : transfers) {
    Bytes message(static_cast<size_t>(transfer.total_bytes()));
    pack(transfer, sources.at(transfer.src_rank).data(), message.data());
    unpack(transfer, message.data(), destinations.at(transfer.dst_rank).data());
  }
  for (const Transfer& run : flatten(transfers)) {
    std::vector<int>& count = writes.at(run.dst_rank);
    for (int64_t i = 0; i < run.bytes; ++i) ++count.at(static_cast<size_t>(run.dst_offset + i));
  }
}

// Runs must be as long as they can be.
void check_merged(const std::vector<Transfer>& runs) {
  for (size_t i = 1; i < runs.size(); ++i) {
    const Transfer& a = runs[i - 1];
    const Transfer& b = runs[i];
    const bool adjacent = a.src_rank == b.src_rank && a.dst_rank == b.dst_rank &&
                          a.src_offset + a.bytes == b.src_offset &&
                          a.dst_offset + a.bytes == b.dst_offset;
    REQUIRE_FALSE(adjacent);
  }
}

// What each rank plans for itself is exactly the whole plan, on both ends.
void check_parts(const ReshardPlanner& planner, const ReshardPlan& plan, const Held& from,
                 const Held& to) {
  size_t copies = 0;
  size_t receives = 0;
  for (const auto& [rank, elements] : to) {
    const DestinationPlan part = planner.plan_for_destination(rank).value();
    std::vector<Transfer> expected;
    for (const Transfer& send : plan.sends) {
      if (send.dst_rank == rank) expected.push_back(send);
    }
    REQUIRE(part.receives == expected);
    copies += part.local_copies.size();
    receives += part.receives.size();
  }
  REQUIRE(copies == plan.local_copies.size());
  REQUIRE(receives == plan.sends.size());
  for (const auto& [rank, elements] : from) {
    std::vector<Transfer> expected;
    for (const Transfer& send : plan.sends) {
      if (send.src_rank == rank) expected.push_back(send);
    }
    std::stable_sort(expected.begin(), expected.end(),
                     [](const Transfer& a, const Transfer& b) { return a.dst_rank < b.dst_rank; });
    REQUIRE(planner.plan_for_source(rank).value() == expected);
  }
}

// The planner's promise. `same_ranks`: equal numbers on both sides are the same process.
void check_plan(const ReshardPlanner& planner, const Held& from, const Held& to,
                int64_t dtype_bytes, bool same_ranks) {
  const ReshardPlan plan = planner.plan().value();
  std::map<int, Bytes> sources;
  std::map<int, Bytes> destinations;
  std::map<int, std::vector<int>> writes;
  for (const auto& [rank, elements] : from) sources[rank] = bytes_of(elements, dtype_bytes);
  for (const auto& [rank, elements] : to) {
    const size_t size = elements.size() * static_cast<size_t>(dtype_bytes);
    destinations[rank].assign(size, std::byte{0xEE});
    writes[rank].assign(size, 0);
  }
  execute(plan.sends, sources, destinations, writes);
  execute(plan.local_copies, sources, destinations, writes);
  for (const auto& [rank, elements] : to) {
    REQUIRE(destinations[rank] == bytes_of(elements, dtype_bytes));
    REQUIRE(std::all_of(writes[rank].begin(), writes[rank].end(), [](int n) { return n == 1; }));
  }
  const std::vector<Transfer> sends = flatten(plan.sends);
  const std::vector<Transfer> copies = flatten(plan.local_copies);
  check_merged(sends);
  check_merged(copies);
  for (const Transfer& copy : copies) REQUIRE(copy.src_rank == copy.dst_rank);
  std::map<int, std::unordered_set<int64_t>> owned;
  for (const auto& [rank, elements] : from) owned[rank] = {elements.begin(), elements.end()};
  for (const Transfer& run : sends) {
    const auto received = covered(to.at(run.dst_rank), run.dst_offset, run.bytes, dtype_bytes);
    REQUIRE(covered(from.at(run.src_rank), run.src_offset, run.bytes, dtype_bytes) == received);
    if (!same_ranks) continue;
    REQUIRE(run.src_rank != run.dst_rank);
    for (const int64_t id : received) REQUIRE(owned[run.dst_rank].count(id) == 0);
  }
  check_parts(planner, plan, from, to);
}

void check_layouts(const Layout& from, const Layout& to, int ranks_per_node) {
  INFO("from " << from.spec.to_string() << " on " << from.mesh.to_string());
  INFO("to " << to.spec.to_string() << " on " << to.mesh.to_string());
  const Result<ReshardPlanner> planner = ReshardPlanner::create(from, to, ranks_per_node);
  REQUIRE(planner.status().to_string() == "ok");
  check_plan(*planner, held_by(from), held_by(to), from.spec.dtype_bytes, true);
}

std::vector<int> random_ranks(Random& random, int count) {
  if (pick(random, 0, 1) == 0) return {};
  std::vector<int> ranks(20);
  std::iota(ranks.begin(), ranks.end(), 0);
  std::shuffle(ranks.begin(), ranks.end(), random);
  ranks.resize(static_cast<size_t>(count));
  return ranks;
}

TEST_CASE("random layouts become each other, every byte once, local bytes never sent") {
  for (uint64_t seed = 1; seed <= 1500; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const std::vector<int64_t> shape = mesh_test::random_shape(random);
    const int64_t dtype_bytes = int64_t{1} << pick(random, 0, 3);
    const auto layout = [&] {
      Layout result{.mesh = mesh_test::random_mesh(random, 10), .spec = {}};
      result.spec = mesh_test::random_spec(random, result.mesh, shape, dtype_bytes);
      result.ranks = random_ranks(random, result.mesh.size());
      return result;
    };
    const Layout from = layout();
    const Layout to = layout();
    check_layouts(from, to, static_cast<int>(pick(random, 0, 4)));
  }
}

// All specs over mesh "a=…,b=…" with plain placements for a tensor of `rank` dimensions.
std::vector<ShardSpec> plain_specs(const std::vector<int64_t>& shape) {
  std::vector<Placement> choices = {Placement::replicate(), Placement::shard_flat()};
  for (size_t d = 0; d < shape.size(); ++d) {
    choices.push_back(Placement::shard(static_cast<int>(d)));
  }
  std::vector<ShardSpec> specs;
  for (const Placement& a : choices) {
    for (const Placement& b : choices) {
      for (const bool a_first : {true, false}) {
        ShardSpec spec{.shape = shape, .dtype_bytes = 4, .placements = {{"a", a}, {"b", b}}};
        if (!a_first) std::swap(spec.placements[0], spec.placements[1]);
        if (spec.check(mesh_of("a=1,b=1", 1)).ok()) specs.push_back(std::move(spec));
      }
    }
  }
  return specs;
}

TEST_CASE("every pair of plain layouts on up to four ranks") {
  std::vector<Mesh> meshes;
  for (const char* text : {"a=1,b=1", "a=2,b=1", "a=3,b=1", "a=2,b=2", "b=2,a=2,order=b-a"}) {
    for (int size = 1; size <= 4; ++size) {
      if (const Result<Mesh> mesh = Mesh::parse(text, size); mesh.ok()) meshes.push_back(*mesh);
    }
  }
  REQUIRE(meshes.size() == 5);
  for (const std::vector<int64_t>& shape :
       {std::vector<int64_t>{}, {0}, {1}, {5}, {2, 3}, {3, 1, 2}}) {
    const std::vector<ShardSpec> specs = plain_specs(shape);
    for (const Mesh& from : meshes) {
      for (const Mesh& to : meshes) {
        for (const ShardSpec& a : specs) {
          for (const ShardSpec& b : specs) check_layouts({from, a}, {to, b}, 2);
        }
      }
    }
  }
}

TEST_CASE("grouped-query attention across degrees") {
  for (const int64_t q : {1, 4, 6, 7}) {
    for (const int64_t kv : {1, 2, 3}) {
      const int64_t head = 3;
      const std::vector<Segment> qkv = {
          {.name = "q", .units = q, .unit_size = head},
          {.name = "k", .units = kv, .unit_size = head, .follows = "q"},
          {.name = "v", .units = kv, .unit_size = head, .follows = "q"}};
      for (int from = 1; from <= 6; ++from) {
        for (int to = 1; to <= 6; ++to) {
          const ShardSpec spec{.shape = {(q + 2 * kv) * head, 2},
                               .dtype_bytes = 4,
                               .placements = {{"tp", Placement::shard(0, qkv)}}};
          check_layouts({mesh_of("tp=*", from), spec}, {mesh_of("tp=*", to), spec}, 2);
        }
      }
    }
  }
}

TEST_CASE("files are sources too: ids are not ranks, and pieces may overlap") {
  for (uint64_t seed = 1; seed <= 300; ++seed) {
    INFO("seed " << seed);
    Random random(seed);
    const std::vector<int64_t> shape = mesh_test::random_shape(random);
    const Mesh saved = mesh_test::random_mesh(random, 8);
    const Layout from{saved, mesh_test::random_spec(random, saved, shape, 2)};
    const Mesh loading = mesh_test::random_mesh(random, 8);
    const Layout to{loading, mesh_test::random_spec(random, loading, shape, 2)};
    ReshardProblem problem{.shape = shape,
                           .dtype_bytes = 2,
                           .sources = holders_of(from).value(),
                           .destinations = holders_of(to).value(),
                           .sources_are_ranks = false};
    for (Holder& file : problem.sources) file.node = -1;
    const ReshardPlanner planner = ReshardPlanner::create(std::move(problem)).value();
    REQUIRE(planner.plan().value().local_copies.empty());
    check_plan(planner, held_by(from), held_by(to), 2, false);
  }
}

TEST_CASE("a column shard is one strided transfer per pair of ranks") {
  const ShardSpec spec{
      .shape = {64, 64}, .dtype_bytes = 2, .placements = {{"tp", Placement::shard(1)}}};
  const Layout from{mesh_of("tp=8", 8), spec};
  const Layout to{mesh_of("tp=4", 4), spec};
  const ReshardPlanner planner = ReshardPlanner::create(from, to).value();
  const DestinationPlan plan = planner.plan_for_destination(3).value();
  REQUIRE(plan.local_copies.empty());
  REQUIRE(plan.receives == std::vector<Transfer>{{.src_rank = 6,
                                                  .dst_rank = 3,
                                                  .src_offset = 0,
                                                  .dst_offset = 0,
                                                  .bytes = 16,
                                                  .count = 64,
                                                  .src_stride = 16,
                                                  .dst_stride = 32},
                                                 {.src_rank = 7,
                                                  .dst_rank = 3,
                                                  .src_offset = 0,
                                                  .dst_offset = 16,
                                                  .bytes = 16,
                                                  .count = 64,
                                                  .src_stride = 16,
                                                  .dst_stride = 32}});
  REQUIRE(flatten(plan.receives).size() == 128);
}

TEST_CASE("the same layout moves nothing") {
  const Layout layout{
      mesh_of("tp=2,dp=2", 4),
      {.shape = {6, 6}, .placements = {{"tp", Placement::shard(1)}, {"dp", Placement::shard(0)}}}};
  const ReshardPlan plan = ReshardPlanner::create(layout, layout).value().plan().value();
  REQUIRE(plan.sends.empty());
  REQUIRE(plan.local_copies.size() == 4);
  for (const Transfer& copy : plan.local_copies) REQUIRE(copy.count == 1);
}

std::map<int, int64_t> sent_by(const ReshardPlan& plan) {
  std::map<int, int64_t> sent;
  for (const Transfer& send : plan.sends) sent[send.src_rank] += send.total_bytes();
  return sent;
}

TEST_CASE("replicas share the load") {
  // tp 2 × 4 replicas on ranks 0-7 feed tp 4 × 2 replicas on ranks 8-15: each box has 4 replicas
  // and 4 takers, so each source serves one.
  const ShardSpec spec{
      .shape = {16, 8}, .dtype_bytes = 4, .placements = {{"tp", Placement::shard(1)}}};
  Layout to{mesh_of("tp=4,dp=2", 8), spec, {8, 9, 10, 11, 12, 13, 14, 15}};
  const ReshardPlan plan =
      ReshardPlanner::create({mesh_of("tp=2,dp=4", 8), spec}, to).value().plan().value();
  const std::map<int, int64_t> sent = sent_by(plan);
  REQUIRE(sent.size() == 8);
  for (const auto& [rank, bytes] : sent) REQUIRE(bytes == 16 * 2 * 4);

  // One new rank that wants everything of many boxes with 2 replicas takes half from each replica.
  const ShardSpec rows{.shape = {8}, .dtype_bytes = 4, .placements = {{"tp", Placement::shard(0)}}};
  const ReshardPlan one =
      ReshardPlanner::create({mesh_of("tp=4,dp=2", 8), rows}, {Mesh(), rows, std::vector<int>{8}})
          .value()
          .plan()
          .value();
  int64_t low = 0;
  for (const auto& [rank, bytes] : sent_by(one)) low += rank < 4 ? bytes : 0;
  REQUIRE(low == 16);
}

TEST_CASE("a replica on the same node is preferred") {
  // Ranks 0-3 and 4-7 are two nodes with a replica each; ranks 2, 3, 6, 7 grow from nothing.
  const ShardSpec spec{.shape = {8}, .dtype_bytes = 4, .placements = {{"tp", Placement::shard(0)}}};
  const Layout from{mesh_of("tp=2,dp=2", 4), spec, {0, 1, 4, 5}};
  const Layout to{mesh_of("tp=2,dp=4", 8), spec};
  const ReshardPlan plan = ReshardPlanner::create(from, to, 4).value().plan().value();
  REQUIRE(plan.sends.size() == 4);
  for (const Transfer& send : plan.sends) REQUIRE(send.src_rank / 4 == send.dst_rank / 4);
  REQUIRE(sent_by(plan).size() == 4);
}

TEST_CASE("where sources overlap without being equal, the near one gives all it can") {
  const Holder far{0, 0, {{{0}, {6}, 0, {1}}}};
  const Holder near{1, 1, {{{2}, {6}, 0, {1}}}};
  const Holder taker{2, 1, {{{0}, {8}, 0, {1}}}};
  ReshardProblem problem{.shape = {8}, .sources = {far, near}, .destinations = {taker}};
  const ReshardPlan plan = ReshardPlanner::create(std::move(problem)).value().plan().value();
  REQUIRE(sent_by(plan) == std::map<int, int64_t>{{0, 2}, {1, 6}});
}

TEST_CASE("segments that stay together travel together") {
  // q, k and v rows are three boxes; as column blocks of equal width they are one strided transfer.
  const std::vector<Segment> qkv = {{.name = "q", .units = 4},
                                    {.name = "k", .units = 2, .follows = "q"},
                                    {.name = "v", .units = 2, .follows = "q"}};
  const Mesh mesh = mesh_of("tp=1,dp=2", 2);
  const ShardSpec spec{
      .shape = {8, 6},
      .dtype_bytes = 1,
      .placements = {{"tp", Placement::shard(0, qkv)}, {"dp", Placement::shard(1)}}};
  REQUIRE(spec.pieces(mesh, 0).size() == 3);
  const DestinationPlan plan =
      ReshardPlanner::create({mesh, spec}, {Mesh(), {.shape = {8, 6}, .dtype_bytes = 1}})
          .value()
          .plan_for_destination(0)
          .value();
  REQUIRE(plan.receives == std::vector<Transfer>{{.src_rank = 1,
                                                  .dst_rank = 0,
                                                  .src_offset = 0,
                                                  .dst_offset = 3,
                                                  .bytes = 3,
                                                  .count = 8,
                                                  .src_stride = 3,
                                                  .dst_stride = 6}});
  REQUIRE(plan.local_copies.size() == 1);
}

TEST_CASE("what can't be planned is refused with what to do") {
  using Catch::Contains;
  const Mesh mesh = mesh_of("tp=2", 2);
  const ShardSpec whole{.shape = {4}};
  const ShardSpec partial{.shape = {4}, .placements = {{"tp", Placement::partial()}}};
  const auto error = [](const Layout& from, const Layout& to) {
    return ReshardPlanner::create(from, to).status();
  };
  REQUIRE(error({mesh, partial}, {mesh, whole}).code() == Code::kFailedPrecondition);
  REQUIRE_THAT(error({mesh, partial}, {mesh, whole}).message(), Contains("Reduce it"));
  REQUIRE(error({mesh, whole}, {mesh, partial}).code() == Code::kFailedPrecondition);
  REQUIRE(error({Mesh(), partial}, {mesh, whole}).ok());
  REQUIRE_THAT(error({mesh, whole}, {mesh, {.shape = {5}}}).message(), Contains("same tensor"));
  REQUIRE_THAT(error({mesh, whole}, {mesh, {.shape = {4}, .dtype_bytes = 2}}).message(),
               Contains("same tensor"));
  REQUIRE_THAT(error({mesh, whole, {3}}, {mesh, whole}).message(), Contains("rank map"));
  REQUIRE_THAT(error({mesh, whole, {3, 3}}, {mesh, whole}).message(), Contains("rank map"));
  REQUIRE_THAT(
      error({mesh, {.shape = {4}, .placements = {{"tp", Placement::shard(1)}}}}, {mesh, whole})
          .message(),
      Contains("the source") && Contains("dimension 1"));
}

TEST_CASE("holders that are wrong or do not hold everything are found") {
  using Catch::Contains;
  const Piece head{{0}, {3}, 0, {1}};
  const Piece all{{0}, {4}, 0, {1}};
  const auto status = [](std::vector<Holder> sources, std::vector<Holder> destinations) {
    ReshardProblem problem{.shape = {4},
                           .dtype_bytes = 4,
                           .sources = std::move(sources),
                           .destinations = std::move(destinations)};
    const Result<ReshardPlanner> planner = ReshardPlanner::create(std::move(problem));
    return planner.ok() ? planner->plan().status() : planner.status();
  };
  REQUIRE(status({{0, -1, {all}}}, {{1, -1, {all}}}).ok());
  const Status missing = status({{0, -1, {head}}}, {{1, -1, {all}}});
  REQUIRE(missing.code() == Code::kNotFound);
  REQUIRE_THAT(missing.message(), Contains("[3:4]") && Contains("rank 1"));
  REQUIRE_THAT(status({{0, -1, {all}}, {0, -1, {head}}}, {}).message(), Contains("given twice"));
  REQUIRE_THAT(status({{0, -1, {Piece{{2}, {3}, 0, {1}}}}}, {}).message(), Contains("outside"));
  REQUIRE_THAT(status({{0, -1, {Piece{{2}, {0}, 0, {1}}}}}, {}).message(), Contains("outside"));
  REQUIRE_THAT(status({{0, -1, {Piece{{}, {}, 0, {}}}}}, {}).message(), Contains("outside"));
  REQUIRE(status({}, {}).ok());
}

TEST_CASE("planning time (printed, not judged)") {
  const auto timed = [](const std::string& what, const Layout& from, const Layout& to) {
    using Clock = std::chrono::steady_clock;
    const auto milliseconds = [](Clock::duration duration) {
      return std::chrono::duration<double, std::milli>(duration).count();
    };
    const auto start = Clock::now();
    const ReshardPlanner planner = ReshardPlanner::create(from, to, 8).value();
    const auto created = Clock::now();
    const size_t own = planner.plan_for_destination(0).value().receives.size();
    const auto planned = Clock::now();
    const ReshardPlan plan = planner.plan().value();
    const auto done = Clock::now();
    std::cout << what << ": create " << milliseconds(created - start) << " ms, rank 0 "
              << milliseconds(planned - created) << " ms (" << own << " transfers), whole plan "
              << milliseconds(done - planned) << " ms (" << plan.sends.size() << " transfers, "
              << flatten(std::span(plan.sends).first(std::min<size_t>(4, plan.sends.size()))).size()
              << " runs in the first 4)\n";
    REQUIRE((!plan.sends.empty() || !plan.local_copies.empty()));
  };
  const ShardSpec columns{
      .shape = {4096, 4096}, .dtype_bytes = 2, .placements = {{"tp", Placement::shard(1)}}};
  timed("4096×4096 columns tp8→tp4", {mesh_of("tp=8", 8), columns}, {mesh_of("tp=4", 4), columns});
  ShardSpec fsdp = columns;
  fsdp.placements.emplace_back("dp", Placement::shard_flat());
  timed("4096×4096 tp8·flat dp64 → tp4·flat dp128", {mesh_of("tp=8,dp=64", 512), fsdp},
        {mesh_of("tp=4,dp=128", 512), fsdp});
  timed("4096×4096 tp8·dp64 replicas → tp4·dp128 replicas", {mesh_of("tp=8,dp=64", 512), columns},
        {mesh_of("tp=4,dp=128", 512), columns});
}

}  // namespace
}  // namespace convoy
