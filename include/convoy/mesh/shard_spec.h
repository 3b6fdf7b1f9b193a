#pragma once

#include <convoy/base/status.h>
#include <convoy/mesh/mesh.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace convoy {

// `length` consecutive positions from `begin`.
struct Range {
  int64_t begin = 0;
  int64_t length = 0;
  int64_t end() const { return begin + length; }
  bool operator==(const Range&) const = default;
};

// THE rule for sizes that do not divide: `size` is cut into `parts` contiguous chunks in order, and
// the first size % parts chunks get one more. (Not torch.chunk's rule, which may leave the last
// parts empty while others differ by much.) This is chunk `index`.
Range even_chunk(int64_t size, int parts, int index);

// A part of a tensor dimension that is sharded by itself, e.g. q, k and v of a fused projection.
// It is made of `units` equal units of `unit_size` indices that are never cut (a head: unit_size =
// head_dim). Which units shard i of n holds, by the first of these that applies:
//  - `counts`, one per shard, adding up to `units`: as given, contiguous in order;
//  - `follows`: the units that another segment's shard needs. With q heads [a, b) of Q on the shard
//    and K units here: [floor(a·K/Q), ceil(b·K/Q)). That is grouped-query attention: whatever the
//    degree, every shard has the kv heads of its q heads, and neighbours may hold the same ones;
//  - `repeat` and n > units: the one unit floor(i·units/n), so several shards hold the same;
//  - otherwise even_chunk(units, n, i). Shards may be empty.
struct Segment {
  std::string name = {};
  int64_t units = 0;
  int64_t unit_size = 1;
  bool repeat = false;
  std::string follows = {};
  std::vector<int64_t> counts = {};
  bool operator==(const Segment&) const = default;
};

enum class PartialOp { kSum, kAverage, kMin, kMax, kProduct };

// What one mesh dimension does to a tensor.
struct Placement {
  enum class Kind {
    kReplicate,  // every coordinate holds the same
    kShard,      // coordinates hold different parts of tensor dimension `dim`
    kShardFlat,  // … of the row-major flattened local tensor, as ZeRO and FSDP cut flat buffers
    kPartial,    // every coordinate holds an addend; the value is their reduction with `op`
  };
  Kind kind = Kind::kReplicate;
  int dim = 0;
  PartialOp op = PartialOp::kSum;
  // kShard: empty = the dimension, or what is left of it, by even_chunk. Otherwise the segments
  // that make up the whole dimension, in order.
  std::vector<Segment> segments = {};
  // kShardFlat: elements per coordinate; empty = even_chunk.
  std::vector<int64_t> sizes = {};

  static Placement replicate() { return {}; }
  static Placement partial(PartialOp op = PartialOp::kSum) { return {Kind::kPartial, 0, op}; }
  static Placement shard(int dim) { return {Kind::kShard, dim}; }
  // Explicit sizes, one per coordinate.
  static Placement shard(int dim, std::vector<int64_t> sizes);
  // A fused dimension: the local tensor is the concatenation of this shard's part of each segment.
  static Placement shard(int dim, std::vector<Segment> segments);
  static Placement shard_flat(std::vector<int64_t> sizes = {});
  bool operator==(const Placement&) const = default;
};

// A run of elements: `length` consecutive elements of the row-major global tensor from
// `global_begin`, which lie consecutively in the local tensor from `local_begin`.
struct Interval {
  int64_t global_begin = 0;
  int64_t local_begin = 0;
  int64_t length = 0;
  bool operator==(const Interval&) const = default;
};

// A box of the global tensor and where its elements lie in somebody's memory: the element at global
// index begin + i is at offset + Σ i[d]·strides[d], in elements. One entry per tensor dimension;
// extents are at least 1.
struct Piece {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
  int64_t offset = 0;
  std::vector<int64_t> strides;
};

// How a tensor is laid out over a mesh. A plain value; const methods may be called from any thread.
//
// `placements` are applied in their order: each cuts what the earlier ones left on the rank, so two
// mesh dimensions that shard the same tensor dimension nest, the earlier one being the outer cut.
// (FSDP over tensor parallel is {{"tp", shard(0)}, {"dp", shard(0)}}, whatever the mesh's rank
// order.) Mesh dimensions not named replicate; names that the mesh lacks have size 1. Segments and
// explicit sizes describe a whole dimension, so only its first cut may have them; flat cuts come
// after all others. Local tensors are dense and row-major.
struct ShardSpec {
  std::vector<int64_t> shape;  // global; empty = a scalar
  int64_t dtype_bytes = 4;
  std::vector<std::pair<std::string, Placement>> placements = {};

  // kInvalidArgument with the fault and the mend if the spec contradicts itself or the mesh. All
  // methods below demand a spec that passes.
  Status check(const Mesh& mesh) const;

  int64_t elements() const;
  // Whether values must be reduced over a mesh dimension (of size > 1) before they mean anything.
  bool is_partial(const Mesh& mesh) const;
  // One-dimensional after a flat cut. A Partial placement has the geometry of Replicate.
  std::vector<int64_t> local_shape(const Mesh& mesh, int rank) const;
  int64_t local_elements(const Mesh& mesh, int rank) const;
  // What the rank holds as disjoint boxes; their number depends on segments, not on the shape.
  // Ranks that hold the same part of a segment have equal boxes.
  std::vector<Piece> pieces(const Mesh& mesh, int rank) const;
  // The same as maximal runs in local order, which cover the local tensor without a gap. A column
  // shard has one per row: for large tensors work with pieces() instead.
  std::vector<Interval> local_intervals(const Mesh& mesh, int rank) const;

  // "[4096, 1024] × 2 B, tp: shard(0), dp: replicate", for messages.
  std::string to_string() const;
  bool operator==(const ShardSpec&) const = default;
};

}  // namespace convoy
