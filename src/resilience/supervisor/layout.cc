#include "src/resilience/supervisor/layout.h"

#include <convoy/base/check.h>

#include <algorithm>
#include <array>

namespace convoy::resilience {

Layout::Layout(Mesh full, bool share) : full_(std::move(full)), mesh_(full_), share_(share) {
  std::map<std::vector<int>, int> parts;
  for (int rank = 0; rank < full_.size(); ++rank) {
    std::vector<int> place = place_of(rank);
    const auto [at, is_new] = numbers_.try_emplace(place, static_cast<int>(numbers_.size()));
    if (!is_new) continue;
    const int replica = place.back();
    place.pop_back();
    const int part = parts.try_emplace(place, static_cast<int>(parts.size())).first->second;
    blocks_.push_back({.replica = replica, .part = part});
  }
  parts_ = static_cast<int>(parts.size());
  number_ranks();
}

// Of a block: its part of the model, and last its replica.
std::vector<int> Layout::place_of(int rank) const {
  std::vector<int> place{mesh_.coordinate(rank, "pp")};
  for (const MeshDim& dim : mesh_.dims()) {
    if (!share_ && dim.name != "dp") place.push_back(mesh_.coordinate(rank, dim.name));
  }
  place.push_back(mesh_.coordinate(rank, "dp"));
  return place;
}

void Layout::number_ranks() {
  block_of_rank_.clear();
  for (int rank = 0; rank < mesh_.size(); ++rank) {
    block_of_rank_.push_back(numbers_.at(place_of(rank)));
  }
}

std::vector<int> Layout::ranks_of(int block) const {
  std::vector<int> ranks;
  for (int rank = 0; rank < mesh_.size(); ++rank) {
    if (block_of(rank) == block) ranks.push_back(rank);
  }
  return ranks;
}

Layout Layout::with_replicas(int replicas) const {
  std::vector<MeshDim> dims(full_.dims().begin(), full_.dims().end());
  for (MeshDim& dim : dims) {
    if (dim.name == "dp") dim.size = replicas;
  }
  const int ranks = full_.size() / full_.size("dp") * replicas;
  const Result<Mesh> mesh = Mesh::create(std::move(dims), ranks, full_.names());
  CONVOY_CHECK(mesh.ok(), mesh.status().message());
  Layout out = *this;
  out.mesh_ = *mesh;
  out.number_ranks();
  return out;
}

int Layout::rank_in(const Layout& other, int rank, int replica) const {
  std::vector<int> coordinates = mesh_.coordinates(rank);
  const std::vector<std::string> names = mesh_.names();
  const auto dp = std::find(names.begin(), names.end(), "dp") - names.begin();
  if (dp < static_cast<std::ptrdiff_t>(names.size())) {
    coordinates[static_cast<size_t>(dp)] = replica;
  }
  return other.mesh_.rank_of(coordinates);
}

std::map<int, int> close_gaps(const std::vector<Block>& blocks, const std::vector<int>& dropped) {
  std::map<int, std::vector<int>> kept;  // by part
  for (int b = 0; b < static_cast<int>(blocks.size()); ++b) {
    const Block& block = blocks[static_cast<size_t>(b)];
    const bool is_dropped = std::find(dropped.begin(), dropped.end(), b) != dropped.end();
    if (block.node != kNone && !is_dropped) kept[block.part].push_back(b);
  }
  std::map<int, int> replica_of;
  for (const auto& [part, all] : kept) {
    const int replicas = static_cast<int>(all.size());
    std::vector<bool> taken(all.size());
    std::vector<int> movers;
    for (const int b : all) {
      const int replica = blocks[static_cast<size_t>(b)].replica;
      if (replica >= replicas) {
        movers.push_back(b);
        continue;
      }
      replica_of[b] = replica;
      taken[static_cast<size_t>(replica)] = true;
    }
    for (const int b : movers) {
      const auto free = std::find(taken.begin(), taken.end(), false);
      replica_of[b] = static_cast<int>(free - taken.begin());
      *free = true;
    }
  }
  return replica_of;
}

std::vector<int> places_in(const Layout& layout, std::vector<int> room) {
  std::vector<int> place(static_cast<size_t>(layout.ranks()));
  const int together = layout.ranks_per_block();
  for (int block = 0; block < static_cast<int>(layout.blocks().size()); ++block) {
    const auto node =
        std::find_if(room.begin(), room.end(), [&](int ranks) { return ranks >= together; });
    if (node == room.end()) return {};
    *node -= together;
    for (const int rank : layout.ranks_of(block)) {
      place[static_cast<size_t>(rank)] = static_cast<int>(node - room.begin());
    }
  }
  return place;
}

Layout layout_of(const Mesh& mesh, int nodes, int ranks_per_node) {
  const int sharing = mesh.size() / mesh.size("dp") / mesh.size("pp");
  return {mesh, nodes == 1 || ranks_per_node % sharing == 0};
}

namespace {

// `own` with other sizes; a dimension that it has not stays away.
Mesh resized(const Mesh& own, int tp, int pp, int dp) {
  std::vector<MeshDim> dims(own.dims().begin(), own.dims().end());
  int ranks = 1;
  for (MeshDim& dim : dims) {
    if (dim.name == "tp") dim.size = tp;
    if (dim.name == "pp") dim.size = pp;
    if (dim.name == "dp") dim.size = dp;
    ranks *= dim.size;
  }
  return Mesh::create(std::move(dims), ranks, own.names()).value();
}

}  // namespace

std::optional<Mesh> mesh_for(const Mesh& own, const std::vector<int>& room, int ranks_per_node,
                             int replicas_min) {
  std::optional<Mesh> best;
  const auto size = [](const Mesh& mesh) {
    return std::array{mesh.size("tp") * mesh.size("pp"), mesh.size("tp"), mesh.size("dp")};
  };
  for (int tp = own.size("tp"); tp >= 1; --tp) {
    for (int pp = own.size("pp"); pp >= 1; --pp) {
      if (own.size("tp") % tp != 0 || own.size("pp") % pp != 0) continue;
      for (int dp = own.size("dp"); dp >= replicas_min; --dp) {
        const Mesh mesh = resized(own, tp, pp, dp);
        const int nodes = static_cast<int>(room.size());
        if (best && size(mesh) <= size(*best)) break;
        if (places_in(layout_of(mesh, nodes, ranks_per_node), room).empty()) continue;
        best = mesh;
        break;
      }
    }
  }
  return best;
}

}  // namespace convoy::resilience
