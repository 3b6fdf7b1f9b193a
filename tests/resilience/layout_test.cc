// Blocks and ranks of a mesh that has fewer replicas for a while: who keeps its part of the model,
// and under which number.
#include "src/resilience/supervisor/layout.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <random>
#include <set>
#include <string>
#include <vector>

using namespace convoy;
using namespace convoy::resilience;

namespace {

Layout layout_of(const char* mesh, int ranks, bool share) {
  return {Mesh::parse(mesh, ranks).value(), share};
}

}  // namespace

TEST_CASE("ranks that share a node are one block, else each is one") {
  const Layout shared = layout_of("tp=2,pp=2,dp=2", 8, true);
  CHECK(shared.parts() == 2);
  CHECK(shared.blocks().size() == 4);
  CHECK(shared.ranks_of(shared.block_of(0)) == std::vector<int>{0, 1});
  const Layout apart = layout_of("tp=2,pp=2,dp=2", 8, false);
  CHECK(apart.parts() == 4);
  CHECK(apart.blocks().size() == 8);
  CHECK(layout_of("tp=4", 4, true).with_replicas(1).is_full());
}

TEST_CASE("in a mesh with fewer replicas each rank keeps its part of the model") {
  for (const char* text : {"tp=2,pp=2,dp=4", "pp=4,dp=4", "dp=16", "tp=4,dp=4,order=dp-tp"}) {
    CAPTURE(text);
    const Layout full = layout_of(text, 16, true);
    for (int replicas = 1; replicas <= full.replicas(); ++replicas) {
      const Layout fewer = full.with_replicas(replicas);
      CHECK(fewer.ranks() == 16 / full.replicas() * replicas);
      CHECK(fewer.is_full() == (replicas == full.replicas()));
      std::set<int> taken;
      for (int rank = 0; rank < full.ranks(); ++rank) {
        const int replica = full.mesh().coordinate(rank, "dp");
        if (replica >= replicas) continue;
        const int there = full.rank_in(fewer, rank, replica);
        CHECK(fewer.block_of(there) == full.block_of(rank));
        CHECK(fewer.mesh().coordinate(there, "tp") == full.mesh().coordinate(rank, "tp"));
        CHECK(fewer.rank_in(full, there, replica) == rank);
        taken.insert(there);
      }
      CHECK(static_cast<int>(taken.size()) == fewer.ranks());
    }
  }
}

TEST_CASE("where no whole replica has room, the model is divided less") {
  struct Case {
    const char* own;
    int ranks_per_node;
    std::vector<int> room;
    int replicas_min;
    const char* expected;  // null: none
  };
  const Case cases[] = {
      {"tp=2,pp=4", 4, {4, 0}, 1, "tp=2,pp=2"},
      {"tp=2,pp=4", 4, {4, 4}, 1, "tp=2,pp=4"},
      {"tp=8", 4, {4, 0}, 1, "tp=4"},
      {"tp=2,pp=6", 6, {8, 0}, 1, "tp=2,pp=3"},
      {"tp=2,pp=2,dp=2", 4, {6, 0}, 1, "tp=2,dp=1,pp=2"},
      {"tp=2,pp=2,dp=2", 4, {3, 0}, 2, "tp=1,dp=2,pp=1"},
      {"tp=2,pp=2,dp=2", 4, {1, 0}, 2, nullptr},
      {"dp=8", 4, {3, 0}, 1, "dp=3"},
      {"pp=4,dp=2", 4, {2, 1}, 1, "dp=1,pp=2"},
      {"tp=4,pp=2", 4, {2, 2}, 1, "tp=2,pp=2"},
      {"tp=2,pp=2,dp=2,order=tp-pp-dp", 4, {2, 0}, 1, "tp=2,pp=1,dp=1,order=tp-pp-dp"},
      {"tp=2", 1, {0, 0}, 1, nullptr}};
  for (const Case& c : cases) {
    CAPTURE(c.own, c.room);
    const int ranks = c.ranks_per_node * static_cast<int>(c.room.size());
    const auto mesh =
        mesh_for(Mesh::parse(c.own, ranks).value(), c.room, c.ranks_per_node, c.replicas_min);
    CHECK((mesh ? mesh->to_string() : "none") == std::string(c.expected ? c.expected : "none"));
  }
}

TEST_CASE("what is left fills the first replicas, and as few as can be move") {
  std::mt19937_64 random(7);
  for (int round = 0; round < 200; ++round) {
    const int replicas = 1 + static_cast<int>(random() % 6);
    const int parts = 1 + static_cast<int>(random() % 4);
    const int keep = 1 + static_cast<int>(random() % static_cast<unsigned>(replicas));
    std::vector<Block> blocks;
    std::vector<int> dropped;
    for (int part = 0; part < parts; ++part) {
      std::vector<int> own;
      for (int replica = 0; replica < replicas; ++replica) {
        own.push_back(static_cast<int>(blocks.size()));
        blocks.push_back({.replica = replica, .part = part, .node = 0});
      }
      std::shuffle(own.begin(), own.end(), random);
      dropped.insert(dropped.end(), own.begin() + keep, own.end());
    }
    const std::map<int, int> replica_of = close_gaps(blocks, dropped);
    CHECK(static_cast<int>(replica_of.size()) == keep * parts);
    std::set<std::pair<int, int>> places;
    for (const auto& [block, replica] : replica_of) {
      const Block& b = blocks[static_cast<size_t>(block)];
      CHECK(replica < keep);
      if (b.replica < keep) CHECK(replica == b.replica);
      places.emplace(b.part, replica);
    }
    CHECK(static_cast<int>(places.size()) == keep * parts);
  }
}
