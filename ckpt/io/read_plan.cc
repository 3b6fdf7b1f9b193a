// Cuts ranges into requests: the aligned inside of a range goes straight to its destination, edges
// and small ranges share bounce blocks.
#include "ckpt/io/read_plan.h"

#include <algorithm>

namespace convoy::ckpt {
namespace {

// Less than this in place is not worth requests of its own.
constexpr size_t kDirectMin = size_t{64} << 10;

uint64_t down(uint64_t x, size_t unit) {
  return x / unit * unit;
}
uint64_t up(uint64_t x, size_t unit) {
  return down(x + unit - 1, unit);
}

// Sorted, without empty ones; those that continue each other in file and memory are joined.
std::vector<ReadRange> joined(std::span<const ReadRange> ranges) {
  std::vector<ReadRange> sorted;
  for (const ReadRange& r : ranges) {
    if (r.bytes > 0) sorted.push_back(r);
  }
  std::stable_sort(sorted.begin(), sorted.end(),
                   [](const ReadRange& a, const ReadRange& b) { return a.offset < b.offset; });
  std::vector<ReadRange> out;
  for (const ReadRange& r : sorted) {
    if (!out.empty() && out.back().offset + out.back().bytes == r.offset &&
        out.back().destination + out.back().bytes == r.destination) {
      out.back().bytes += r.bytes;
    } else {
      out.push_back(r);
    }
  }
  return out;
}

// Whole blocks of the range's aligned inside; what is left on both sides goes to `edges`.
void split(const ReadRange& r, const ReadGeometry& g, std::vector<ReadBlock>& blocks,
           std::vector<ReadRange>& edges) {
  const uint64_t end = r.offset + r.bytes;
  const uint64_t first = up(r.offset, g.align);
  const uint64_t last = down(end, g.align);
  std::byte* inside = r.destination + (first - r.offset);
  if (first >= last || last - first < kDirectMin ||
      reinterpret_cast<uintptr_t>(inside) % g.memory_align != 0) {
    edges.push_back(r);
    return;
  }
  if (first > r.offset) edges.push_back({r.offset, first - r.offset, r.destination});
  for (uint64_t at = first; at < last; at += g.block_bytes) {
    const size_t n = std::min<uint64_t>(g.block_bytes, last - at);
    blocks.push_back({at, n, inside + (at - first), {}});
  }
  if (end > last) edges.push_back({last, end - last, inside + (last - first)});
}

// Packs edges, which are sorted, into bounce blocks; a new one begins at a gap or when one is full.
void pack(const std::vector<ReadRange>& edges, const ReadGeometry& g,
          std::vector<ReadBlock>& blocks) {
  ReadBlock* open = nullptr;
  for (ReadRange r : edges) {
    while (r.bytes > 0) {
      const bool fits = open != nullptr && r.offset >= open->offset &&
                        down(r.offset, g.align) <= open->offset + open->bytes &&
                        r.offset < open->offset + g.block_bytes;
      if (!fits) {
        blocks.push_back({down(r.offset, g.align), 0, nullptr, {}});
        open = &blocks.back();
      }
      const size_t at = r.offset - open->offset;
      const size_t n = std::min(r.bytes, g.block_bytes - at);
      open->pieces.push_back({at, n, r.destination});
      open->bytes = std::max<size_t>(open->bytes, up(at + n, g.align));
      r.offset += n;
      r.bytes -= n;
      r.destination += n;
    }
  }
}

}  // namespace

size_t ReadBlock::needed() const {
  if (direct != nullptr) return bytes;
  size_t most = 0;
  for (const Piece& p : pieces) most = std::max(most, p.offset + p.bytes);
  return most;
}

std::vector<ReadBlock> plan_reads(std::span<const ReadRange> ranges, const ReadGeometry& geometry) {
  std::vector<ReadBlock> blocks;
  std::vector<ReadRange> edges;
  for (const ReadRange& r : joined(ranges)) split(r, geometry, blocks, edges);
  std::stable_sort(edges.begin(), edges.end(),
                   [](const ReadRange& a, const ReadRange& b) { return a.offset < b.offset; });
  pack(edges, geometry, blocks);
  std::stable_sort(blocks.begin(), blocks.end(),
                   [](const ReadBlock& a, const ReadBlock& b) { return a.offset < b.offset; });
  return blocks;
}

}  // namespace convoy::ckpt
