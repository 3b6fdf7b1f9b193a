#pragma once

#include <convoy/mesh/mesh.h>
#include <convoy/resilience/policy.h>

#include <map>
#include <optional>
#include <vector>

namespace convoy::resilience {

// The job's ranks as blocks, as the policy sees them: in its full mesh, and in the one that it has
// at present, with fewer data-parallel replicas if machines are missing. Replicas are numbered
// without gaps, so those that are missing are the last ones.
class Layout {
 public:
  // `share`: ranks that differ in other dimensions than dp and pp have to share a node. Else each
  // rank is a block.
  Layout(Mesh full, bool share);

  const Mesh& full() const { return full_; }
  const Mesh& mesh() const { return mesh_; }
  int ranks() const { return mesh_.size(); }
  int replicas() const { return mesh_.size("dp"); }
  bool is_full() const { return mesh_ == full_; }

  // Of the full mesh, and without places.
  const std::vector<Block>& blocks() const { return blocks_; }
  int parts() const { return parts_; }
  int ranks_per_block() const { return full_.size() / static_cast<int>(blocks_.size()); }
  int block_of(int rank) const { return block_of_rank_[static_cast<size_t>(rank)]; }
  std::vector<int> ranks_of(int block) const;

  // The same with another number of replicas.
  Layout with_replicas(int replicas) const;
  // The rank there of who has `rank` here, in another replica.
  int rank_in(const Layout& other, int rank, int replica) const;

 private:
  void number_ranks();
  std::vector<int> place_of(int rank) const;

  Mesh full_, mesh_;
  bool share_;
  int parts_ = 1;
  std::vector<Block> blocks_;
  std::map<std::vector<int>, int> numbers_;  // of blocks, by their places
  std::vector<int> block_of_rank_;
};

// Which block goes on in which replica when some are given up, of those that have a node. As few
// move as can be.
std::map<int, int> close_gaps(const std::vector<Block>& blocks, const std::vector<int>& dropped);

// The node of each rank; `room`: for ranks, by node. Empty: there is not enough.
std::vector<int> places_in(const Layout& layout, std::vector<int> room);

// Where not all of `own` has room: the mesh that a job goes on with. Its dimensions tp and pp are
// divided as little as can be, since a rank then holds more of the model, tp least of all, since
// that takes most from its speed; then it has as many replicas as fit, at least `replicas_min`.
// nullopt: there is none. `ranks_per_node`: of the job, whose machines are alike.
std::optional<Mesh> mesh_for(const Mesh& own, const std::vector<int>& room, int ranks_per_node,
                             int replicas_min);
// Ranks of one model replica, as far as they have to share a node, do so where a node has room.
Layout layout_of(const Mesh& mesh, int nodes, int ranks_per_node);

}  // namespace convoy::resilience
