#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/records.h>

#include <cstdint>
#include <span>
#include <vector>

// Which of several ranks that hold the same elements gives them to a save. Pure, free of torch.
namespace convoy::ckpt {

// A rank's part of a share is not made smaller than this by cutting: more pieces cost records and
// make nothing faster.
inline constexpr uint64_t kReplicaShareBytesMin = uint64_t{1} << 20;

// A box of a tensor that a rank holds.
struct HeldBox {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;  // ≥ 1 each

  bool operator==(const HeldBox&) const = default;
  auto operator<=>(const HeldBox&) const = default;  // NOLINT(modernize-use-nullptr)
};

// One tensor and a rank's boxes of it.
struct HeldTensor {
  TensorInfo info;
  std::vector<HeldBox> boxes;

  bool operator==(const HeldTensor&) const = default;
};
using Holding = std::vector<HeldTensor>;  // what one rank holds; each tensor once

// What a rank gives: a box inside of box `box` of tensor `tensor` of its own holding.
struct ReplicaShare {
  uint32_t tensor = 0;
  uint32_t box = 0;
  std::vector<int64_t> begin;  // in the global tensor
  std::vector<int64_t> extent;

  bool operator==(const ReplicaShare&) const = default;
};

// The shares of each rank, for what all ranks hold (rank r: holdings[r]). Every element of a box
// that one rank holds alone is given by it. A box that several ranks hold is given once among them:
// whole if it is small, else cut along its outermost dimension, so that all ranks come as close to
// the same number of bytes as their holdings allow. Boxes that overlap without being equal are
// given by each of their holders, which costs room and is no error.
//
// Depends on the holdings alone, so ranks that know all of them agree without talking; shares of a
// rank come in its holding's order. Cost: n·log n in the boxes of all ranks. kMismatch, naming both
// ranks, if they tell another dtype or shape of a tensor; kInvalidArgument for a tensor twice or a
// box outside of its tensor.
Result<std::vector<std::vector<ReplicaShare>>> spread_replicas(std::span<const Holding> holdings);

}  // namespace convoy::ckpt
