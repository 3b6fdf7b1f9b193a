#include "ckpt/service/node_image.h"

#include <algorithm>
#include <cstring>

namespace convoy::ckpt {
namespace {

uint64_t blocks_of(uint64_t bytes) {
  return (bytes + kImageBlockBytes - 1) / kImageBlockBytes;
}

}  // namespace

void NodeImage::lay_out() {
  info.blocks = 0;
  info.ranks.clear();
  for (const Rank& rank : ranks) {
    ImageRank at{rank.rank, info.blocks, rank.stream.size(), 0, rank.part.size()};
    at.part_block = at.stream_block + blocks_of(at.stream_bytes);
    info.blocks = at.part_block + blocks_of(at.part_bytes);
    info.ranks.push_back(at);
  }
}

void NodeImage::copy_block(uint64_t index, std::byte* to) const {
  const auto copy = [&](std::span<const std::byte> from, uint64_t first) {
    if (index < first || index >= first + blocks_of(from.size())) return false;
    const auto bytes = from.subspan((index - first) * kImageBlockBytes);
    const size_t count = std::min(bytes.size(), kImageBlockBytes);
    std::memcpy(to, bytes.data(), count);
    std::memset(to + count, 0, kImageBlockBytes - count);
    return true;
  };
  for (size_t i = 0; i < ranks.size(); ++i) {
    if (copy(ranks[i].stream, info.ranks[i].stream_block)) return;
    if (copy(ranks[i].part, info.ranks[i].part_block)) return;
  }
  std::memset(to, 0, kImageBlockBytes);  // behind the end
}

}  // namespace convoy::ckpt
