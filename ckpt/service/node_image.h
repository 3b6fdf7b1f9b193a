#pragma once

#include <convoy/ckpt/arena.h>

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

// A node's snapshot of one step as a row of blocks, which is what peers keep pieces of.
namespace convoy::ckpt {

// A chunk of a stream is one block.
inline constexpr size_t kImageBlockBytes = size_t{256} << 10;

// Where a rank's bytes lie in the image. Both begin on a block.
struct ImageRank {
  uint32_t rank = 0;
  uint64_t stream_block = 0, stream_bytes = 0;
  uint64_t part_block = 0, part_bytes = 0;  // the encoded part
};

struct ImageInfo {
  uint64_t generation = 0, step = 0;
  uint32_t node = 0, nodes = 1, world_size = 1;
  uint64_t blocks = 0;
  std::vector<ImageRank> ranks;
};

// Bytes in the node's own arenas.
struct NodeImage {
  struct Rank {
    uint32_t rank = 0;
    std::span<const std::byte> stream, part;
    std::shared_ptr<const Arena> arena;  // keeps them alive
  };
  ImageInfo info;
  std::vector<Rank> ranks;

  // Fills info.blocks and info.ranks from `ranks`.
  void lay_out();
  // Copies block `index` to `to`, filled up with zeros.
  void copy_block(uint64_t index, std::byte* to) const;
};

}  // namespace convoy::ckpt
