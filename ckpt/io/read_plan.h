#pragma once

#include <convoy/ckpt/disk_file.h>

#include <span>
#include <vector>

namespace convoy::ckpt {

// One request of a read: `bytes` from `offset` on, into `direct`, or, where that is null, into a
// bounce block whose pieces are copied out.
struct ReadBlock {
  struct Piece {
    size_t offset = 0;  // in the block
    size_t bytes = 0;
    std::byte* destination = nullptr;
  };
  uint64_t offset = 0;
  size_t bytes = 0;
  std::byte* direct = nullptr;
  std::vector<Piece> pieces;

  // The last byte that is needed: the file may end behind it.
  size_t needed() const;
};

struct ReadGeometry {
  size_t align = kDiskAlign;         // of offsets and sizes; 1: any
  size_t memory_align = kDiskAlign;  // of `direct`
  size_t block_bytes = size_t{4} << 20;
};

// The requests for `ranges`, sorted by offset. Ranges that touch become one; what lies aligned in
// file and memory is read in place. Pure.
std::vector<ReadBlock> plan_reads(std::span<const ReadRange> ranges, const ReadGeometry& geometry);

}  // namespace convoy::ckpt
