#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/copy.h>
#include <convoy/ckpt/records.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

// What a rank saves or wants: boxes of global tensors, and where their elements lie in its memory.
// Plain values, free of torch; nothing here knows of tp, pp or dp.
namespace convoy::ckpt {

// A box of a tensor: element begin + i is at data + Σ i[d]·strides[d] elements. Extents are ≥ 1; a
// scalar has no dimensions. The memory is the caller's.
struct StateBox {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
  std::byte* data = nullptr;
  std::vector<int64_t> strides;  // elements

  int64_t elements() const;
};

// One tensor, by its global name; a rank's boxes of it don't overlap. Of a tensor that several
// ranks hold, one rank has to give each element to a save (spread_replicas() in replicas.h shares
// them out); more may.
struct StateTensor {
  TensorInfo info;
  std::vector<StateBox> boxes;
};
using State = std::vector<StateTensor>;

// kInvalidArgument: a name twice, a box outside of its tensor, no memory.
Status check(const State& state);

// A stream of the state: its boxes one behind the other, each dense and row-major.
struct StreamLayout {
  std::vector<TensorInfo> tensors;
  Stream stream;                // pieces; no chunks yet, rank 0
  std::vector<SourceRun> runs;  // what to copy, in the stream's order
};
// Tensors of wide elements come first, so that elements are aligned in the stream.
Result<StreamLayout> lay_out(const State& state);

}  // namespace convoy::ckpt
