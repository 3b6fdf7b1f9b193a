#pragma once

#include "ckpt/replica/placement.h"
#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace convoy::ckpt {

// Reed–Solomon code over bytes (isa-l, a Cauchy matrix, so any k pieces do). Byte i of a piece
// depends on byte i of the others only. Immutable; any thread.
class ErasureCode {
 public:
  // 1 ≤ k, k + m ≤ kReplicaPiecesMax, else a CONVOY_CHECK.
  explicit ErasureCode(const ReplicaScheme& scheme);

  // Computes pieces k … k + m - 1 from pieces 0 … k - 1, `bytes` of each.
  void encode(std::span<const std::byte* const> data, std::span<std::byte* const> parity,
              size_t bytes) const;
  // Computes piece `wanted` from k others: have[i] is piece number pieces[i].
  void rebuild(std::span<const uint32_t> pieces, std::span<const std::byte* const> have,
               uint32_t wanted, std::byte* to, size_t bytes) const;

 private:
  const ReplicaScheme scheme_;
  std::vector<unsigned char> matrix_;  // (k + m) × k
  std::vector<unsigned char> tables_;  // of the last m rows, as isa-l wants them
};

}  // namespace convoy::ckpt
