#pragma once

#include "ckpt/replica/placement.h"
#include "ckpt/service/node_image.h"
#include <convoy/base/status.h>
#include <convoy/ckpt/arena.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <span>
#include <utility>
#include <vector>

namespace convoy::ckpt {

// A piece of a node's snapshot: block j of it is data block j·k + piece of the image, or (piece ≥
// k) computed from the image's blocks j·k … j·k + k - 1.
struct PieceInfo {
  ImageInfo image;
  ReplicaScheme scheme;
  uint32_t piece = 0;
  uint64_t blocks() const { return (image.blocks + scheme.k - 1) / scheme.k; }
};

// The pieces that this node keeps for others, in memory. Of each owner two steps at most: the
// newest one that all nodes have replicated, and the one that is on its way. So its memory is at
// most 2 × (k + m - 1) / k of the largest snapshot of the group, a block each for the rounding, and
// 8 bytes a block. Thread-safe.
class PieceStore {
 public:
  using StepKey = std::pair<uint64_t, uint64_t>;  // generation, step: newer is greater

  // Begins to take in a piece. kFailedPrecondition: of an older generation than another that has
  // come; kResourceExhausted: this machine has not the memory left.
  Status begin(const PieceInfo& info);
  // Blocks from `first` on, with the XXH3 of each. kNotFound: not begun, or dropped meanwhile.
  Status put(const StepKey& step, uint32_t owner, uint64_t first, std::span<const uint64_t> sums,
             const std::function<void(std::byte*)>& copy);
  // All its blocks have come: from now on it counts. kDataLoss: some have not, or came damaged.
  Status seal(const StepKey& step, uint32_t owner);
  // All nodes have replicated the step: older ones go.
  void settle(const StepKey& step);

  // Copies a block of a sealed piece. kNotFound; kDataLoss: its bits have changed since.
  Status read(const StepKey& step, uint32_t owner, uint64_t block, std::byte* to) const;
  std::vector<PieceInfo> sealed() const;
  uint64_t bytes() const;  // of memory
  // For tests: flips a bit of a block.
  void damage(uint32_t owner, uint64_t block);

 private:
  struct Piece {
    PieceInfo info;
    std::shared_ptr<Arena> memory;  // shared with calls that copy
    std::vector<uint64_t> sums;
    std::vector<bool> there;
    bool sealed = false;
  };
  const Piece* find(const StepKey& step, uint32_t owner) const;

  mutable std::mutex mutex_;
  std::map<uint32_t, std::map<StepKey, Piece>> owners_;  // guarded by mutex_, as what follows
  std::optional<StepKey> settled_;
  uint64_t generation_ = 0;
};

}  // namespace convoy::ckpt
