// Peer memory without agents: who keeps what (compared with what the domains allow at all), the
// code (all losses of m pieces of small codes, bit by bit), the store of pieces, and which step can
// be had of what is left. With real agents, and which die: replica_agents_test.cc.
#include "ckpt/replica/erasure.h"
#include "ckpt/replica/peer_source.h"
#include "ckpt/replica/piece_store.h"
#include "ckpt/replica/placement.h"
#include <convoy/base/checksum.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cstring>
#include <map>
#include <random>
#include <set>

namespace convoy::ckpt {
namespace {

TEST_CASE("placement: everybody keeps as much as he gives, and domains are not shared in vain") {
  std::mt19937 random(1);
  int shared = 0, apart = 0;
  for (int round = 0; round < 500; ++round) {
    CAPTURE(round);
    const ReplicaScheme scheme{1 + static_cast<uint32_t>(random() % 4),
                               1 + static_cast<uint32_t>(random() % 2)};
    const size_t nodes = scheme.pieces() + random() % 30;
    std::vector<std::string> domains(nodes);
    const size_t kinds = 1 + random() % 12;
    const bool even = random() % 2 == 0;
    for (size_t i = 0; i < nodes; ++i) {
      const size_t domain = even ? i % kinds : random() % kinds;
      if (kinds < 12) domains[i] = "rack " + std::to_string(domain);
    }
    const Result<Placement> placement = place_replicas(domains, scheme);
    REQUIRE(placement.ok());
    std::map<uint32_t, uint32_t> kept;
    bool any_shared = false;
    for (uint32_t owner = 0; owner < nodes; ++owner) {
      const std::vector<uint32_t>& holders = placement->holders[owner];
      REQUIRE(holders.size() == scheme.pieces());
      REQUIRE(holders[0] == owner);
      const std::set<uint32_t> different(holders.begin(), holders.end());
      REQUIRE(different.size() == holders.size());
      std::set<std::string> racks;
      for (const uint32_t node : holders) {
        racks.insert(domains[node].empty() ? "node " + std::to_string(node) : domains[node]);
        if (node != owner) ++kept[node];
      }
      any_shared = any_shared || racks.size() < holders.size();
    }
    for (uint32_t node = 0; node < nodes; ++node) REQUIRE(kept[node] == scheme.pieces() - 1);
    CHECK(any_shared == !placement->warnings.empty());
    // Whole groups of evenly filled domains: it is possible, so it is done.
    if (even && kinds >= scheme.pieces() && nodes % kinds == 0 && nodes % scheme.pieces() == 0) {
      CHECK(!any_shared);
    }
    (any_shared ? shared : apart) += 1;
  }
  CHECK(shared > 50);
  CHECK(apart > 50);
  CHECK(place_replicas({"a", "b"}, {2, 1}).status().code() == Code::kInvalidArgument);
  const Result<Placement> one = place_replicas({"a", "a", "a"}, {1, 1});
  CHECK(one->warnings.at(0).find("'a'") != std::string::npos);
}

std::vector<std::byte> random_bytes(std::mt19937& random, size_t size) {
  std::vector<std::byte> out(size);
  for (std::byte& b : out) b = static_cast<std::byte>(random());
  return out;
}

TEST_CASE("any k of k + m pieces give all the others back") {
  std::mt19937 random(2);
  for (const ReplicaScheme scheme :
       {ReplicaScheme{1, 1}, ReplicaScheme{1, 2}, ReplicaScheme{2, 1}, ReplicaScheme{4, 2},
        ReplicaScheme{5, 3}, ReplicaScheme{8, 4}}) {
    const ErasureCode code(scheme);
    for (const size_t bytes : {size_t{1}, size_t{63}, size_t{4096}, size_t{70001}}) {
      std::vector<std::vector<std::byte>> pieces;
      for (uint32_t i = 0; i < scheme.pieces(); ++i) pieces.push_back(random_bytes(random, bytes));
      std::vector<const std::byte*> data;
      std::vector<std::byte*> parity;
      for (uint32_t i = 0; i < scheme.k; ++i) data.push_back(pieces[i].data());
      for (uint32_t i = scheme.k; i < scheme.pieces(); ++i) parity.push_back(pieces[i].data());
      code.encode(data, parity, bytes);
      if (scheme.k == 1) CHECK(pieces[1] == pieces[0]);
      int combinations = 0;
      for (uint32_t mask = 0; mask < 1U << scheme.pieces(); ++mask) {
        if (std::popcount(mask) != static_cast<int>(scheme.k)) continue;
        std::vector<uint32_t> have;
        std::vector<const std::byte*> at;
        for (uint32_t i = 0; i < scheme.pieces(); ++i) {
          if ((mask >> i & 1U) == 0) continue;
          have.push_back(i);
          at.push_back(pieces[i].data());
        }
        for (uint32_t wanted = 0; wanted < scheme.pieces(); ++wanted) {
          std::vector<std::byte> back(bytes);
          code.rebuild(have, at, wanted, back.data(), bytes);
          REQUIRE(back == pieces[wanted]);
        }
        ++combinations;
      }
      REQUIRE(combinations > 0);
    }
  }
}

PieceInfo piece_of(uint32_t owner, uint64_t generation, uint64_t step, uint32_t piece = 1) {
  return {{generation, step, owner, 3, 3, 4, {}}, {2, 1}, piece};
}

// Two blocks of a pattern that tells step and owner apart.
Status fill(PieceStore& store, const PieceInfo& info, uint64_t blocks = 2) {
  const std::vector<std::byte> bytes(blocks * kImageBlockBytes,
                                     static_cast<std::byte>(info.image.step * 7 + info.image.node));
  const uint64_t sum = xxh3(std::span(bytes).first(kImageBlockBytes));
  const std::vector<uint64_t> sums(blocks, sum);
  return store.put({info.image.generation, info.image.step}, info.image.node, 0, sums,
                   [&](std::byte* to) { std::memcpy(to, bytes.data(), bytes.size()); });
}

TEST_CASE("the store keeps a settled step until a newer one has settled, and no more") {
  PieceStore store;
  std::vector<std::byte> block(kImageBlockBytes);
  const auto keep = [&](uint64_t generation, uint64_t step) {
    REQUIRE(store.begin(piece_of(0, generation, step)).ok());
    REQUIRE(fill(store, piece_of(0, generation, step)).ok());
    REQUIRE(store.seal({generation, step}, 0).ok());
  };
  keep(1, 10);
  store.settle({1, 10});
  keep(1, 20);  // sealed here, but not on all nodes
  keep(1, 30);
  CHECK(store.read({1, 10}, 0, 1, block.data()).ok());
  CHECK(store.read({1, 20}, 0, 1, block.data()).code() == Code::kNotFound);
  CHECK(store.bytes() == 4 * kImageBlockBytes);  // two steps, never three
  keep(2, 20);                                   // the next generation went back
  store.settle({2, 20});
  CHECK(store.sealed().size() == 1);
  CHECK(store.bytes() == 2 * kImageBlockBytes);
  CHECK(block[0] == static_cast<std::byte>(70));
  CHECK(store.begin(piece_of(0, 1, 40)).code() == Code::kFailedPrecondition);  // an old one wakes
}

TEST_CASE("damage on the way and in memory is found; what is not whole does not count") {
  PieceStore store;
  std::vector<std::byte> block(kImageBlockBytes);
  CHECK(fill(store, piece_of(0, 1, 1)).code() == Code::kNotFound);
  REQUIRE(store.begin(piece_of(0, 1, 1)).ok());
  CHECK(fill(store, piece_of(0, 1, 1), 1).ok());
  CHECK(store.seal({1, 1}, 0).code() == Code::kDataLoss);
  CHECK(store.read({1, 1}, 0, 0, block.data()).code() == Code::kNotFound);
  CHECK(store.put({1, 1}, 0, 1, std::vector<uint64_t>{1}, [](std::byte*) {}).code() ==
        Code::kDataLoss);
  CHECK(store.put({1, 1}, 0, 2, std::vector<uint64_t>{1}, [](std::byte*) {}).code() ==
        Code::kInvalidArgument);
  CHECK(fill(store, piece_of(0, 1, 1)).ok());
  CHECK(store.seal({1, 1}, 0).ok());
  CHECK(store.read({1, 1}, 0, 1, block.data()).ok());
  store.damage(0, 1);
  CHECK(store.read({1, 1}, 0, 1, block.data()).code() == Code::kDataLoss);
  CHECK(store.read({1, 1}, 0, 0, block.data()).ok());
  PieceInfo hostile = piece_of(0, 1, 2);
  hostile.image.blocks = ~uint64_t{0};
  CHECK(store.begin(hostile).code() == Code::kInvalidArgument);
}

TEST_CASE(
    "the newest step that can be had of every node is chosen, and else it is said who is missing") {
  std::vector<AgentHas> agents(3);
  CHECK(choose_peer_step(agents).status().code() == Code::kNotFound);
  for (uint32_t node = 0; node < 3; ++node) {
    for (const uint64_t step : {10, 20}) {
      agents[node].images.push_back(piece_of(node, 1, step, 0));
      agents[(node + 1) % 3].pieces.push_back(piece_of(node, 1, step, 1));
      agents[(node + 2) % 3].pieces.push_back(piece_of(node, 1, step, 2));
    }
  }
  CHECK(choose_peer_step(agents)->at(0).image.step == 20);
  auto one_lost = agents;
  one_lost[2] = {};
  const auto left = choose_peer_step(one_lost);
  REQUIRE(left.ok());
  CHECK(left->at(2).image.step == 20);
  CHECK(!left->at(2).whole);
  CHECK(left->at(2).pieces.size() == 2);
  // Of step 20 one more piece of node 2's is gone: step 10 it is.
  std::erase_if(one_lost[0].pieces, [](const PieceInfo& p) { return p.image.step == 20; });
  CHECK(choose_peer_step(one_lost)->at(0).image.step == 10);
  auto two_lost = agents;
  two_lost[1] = two_lost[2] = {};
  two_lost[2].status = {Code::kUnavailable, "gone"};
  const Status lost = choose_peer_step(two_lost).status();
  CHECK(lost.code() == Code::kDataLoss);
  CHECK(lost.message().find("node 1's snapshot is lost: 1 of its pieces are left, 2 are needed") !=
        std::string::npos);
  CHECK(lost.message().find("agents of nodes 2 don't answer") != std::string::npos);
}

}  // namespace
}  // namespace convoy::ckpt
