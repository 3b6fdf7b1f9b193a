#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

namespace convoy::ckpt {

// Chunks first, first + 1, … of a stream.
struct ChunkRun {
  uint32_t part = 0;
  uint32_t stream = 0;
  uint64_t first = 0;
  uint64_t count = 0;
  uint64_t chunk_bytes = 0;

  uint64_t bytes() const { return count * chunk_bytes; }
  bool operator==(const ChunkRun&) const = default;
};

// Chunks that several ranks want: one of them reads, and sends to the takers.
struct SharedRun {
  ChunkRun chunks;
  uint32_t reader = 0;
  std::vector<uint32_t> takers;  // ascending, at least one, without the reader
};

// Who reads what is wanted by more than one. wants[r]: rank r's, sorted, without overlaps. Runs are
// handed out whole, one after the other, each to the rank that has the least to read so far of
// those that want it; they are as long as evenness allows (at most kSharedRunBytes), because a disk
// reads long runs faster. Pure: the same on all ranks.
inline constexpr uint64_t kSharedRunBytes = uint64_t{4} << 20;
std::vector<SharedRun> share_reads(const std::vector<std::vector<ChunkRun>>& wants);

// The runs in rounds, cut where need be: in a round no rank sends more than `most` bytes, copies
// counted, nor receives more; but a round has at least one chunk.
std::vector<std::vector<SharedRun>> plan_rounds(std::vector<SharedRun> runs, size_t ranks,
                                                uint64_t most);

}  // namespace convoy::ckpt
