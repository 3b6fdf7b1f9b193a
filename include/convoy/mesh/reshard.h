#pragma once

#include <convoy/base/status.h>
#include <convoy/mesh/mesh.h>
#include <convoy/mesh/shard_spec.h>
#include <convoy/mesh/transfer.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy {

// Somebody who holds, or is to hold, parts of a tensor: a rank, or a file of a checkpoint.
struct Holder {
  int id = 0;                 // global rank, or the caller's number of a file; unique on its side
  int node = -1;              // the machine it is on; -1: near to nobody
  std::vector<Piece> pieces;  // a destination's must not overlap
};

// A tensor's layout in a job. Mesh rank r is the job's global rank ranks[r]; empty means r itself.
struct Layout {
  Mesh mesh;
  ShardSpec spec;
  std::vector<int> ranks = {};
};

// What to move, in general form. With `sources_are_ranks` a source and a destination of equal id
// are the same process, and what it holds already is copied, never sent.
struct ReshardProblem {
  std::vector<int64_t> shape;
  int64_t dtype_bytes = 1;
  std::vector<Holder> sources;
  std::vector<Holder> destinations;
  bool sources_are_ranks = true;
};

// What one destination gets. Applied together, `receives` and `local_copies` write each byte of its
// local tensor exactly once; `receives` has nothing that it held already.
struct DestinationPlan {
  std::vector<Transfer> receives;
  std::vector<Transfer> local_copies;
};

// All destinations together, in the order of the problem's destinations.
struct ReshardPlan {
  std::vector<Transfer> sends;
  std::vector<Transfer> local_copies;
};

// THE planner of data movement: checkpoint loading, live resharding and weight transfer are all
// "from these holders to those". Pure: it works out byte ranges and does no I/O. Works on boxes and
// strided runs, so its cost depends on the number of holders and segments and not on the tensor's
// size.
//
// Which of several replicas serves a destination: one on its own node if there is one, else any;
// among these the one that serves the fewest elements of that box so far, counting all destinations
// in the order of the problem, ties turning from box to box. The choice depends on the problem
// alone, so each rank can plan only its own part and all parts fit together.
//
// Immutable after create(); any thread may call any method; nothing blocks.
class ReshardPlanner {
 public:
  // `ranks_per_node` is how many consecutive global ranks share a machine; 0: all do.
  // kInvalidArgument if the specs don't describe the same tensor, contradict their meshes, or the
  // ranks of a layout are not one distinct global rank for each of the mesh; kFailedPrecondition if
  // one is partial: reduce it first.
  static Result<ReshardPlanner> create(const Layout& from, const Layout& to,
                                       int ranks_per_node = 0);
  // kInvalidArgument for pieces outside of the shape and for ids given twice.
  static Result<ReshardPlanner> create(ReshardProblem problem);

  // What the destination with id `rank` gets; a rank that is none gets an empty plan. Transfers are
  // sorted by (src_rank, dst_offset). kNotFound names a region that no source holds.
  Result<DestinationPlan> plan_for_destination(int rank) const;
  // What source `rank` sends, sorted by (dst_rank, dst_offset): for each pair of ranks the same
  // transfers in the same order as the receiver's plan has. Costs as much as plan(), without
  // keeping it.
  Result<std::vector<Transfer>> plan_for_source(int rank) const;
  // The plans of all destinations.
  Result<ReshardPlan> plan() const;

 private:
  struct State;
  explicit ReshardPlanner(std::shared_ptr<const State> state) : state_(std::move(state)) {}

  // Shared by copies of the planner, which never change it.
  std::shared_ptr<const State> state_;
};

// The holders of a layout, one for each mesh rank, in mesh order. Fails like
// ReshardPlanner::create.
Result<std::vector<Holder>> holders_of(const Layout& layout, int ranks_per_node = 0);

}  // namespace convoy
