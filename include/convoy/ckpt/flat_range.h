#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace convoy::ckpt {

// A box of an array, from `begin` on; extents are ≥ 1.
struct RangeBox {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
};

// Elements [begin, end) of a row-major array of this shape, as few boxes in ascending order: a
// ZeRO shard, say, which is a range of flat memory. At most twice as many as dimensions, less one.
// Pure.
std::vector<RangeBox> boxes_of_range(std::span<const int64_t> shape, int64_t begin, int64_t end);

}  // namespace convoy::ckpt
