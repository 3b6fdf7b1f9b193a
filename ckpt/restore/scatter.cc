// The strided copies of a load, chunk by chunk. Chunks don't know of elements: one that is to be
// converted and lies in two chunks waits for its second half.
#include "ckpt/restore/scatter.h"

#include <algorithm>
#include <cstring>

namespace convoy::ckpt {
namespace {

// Whole runs of a few bytes: a call of memcpy for each would cost more than the bytes.
template <size_t kBytes>
void copy_runs(const Move& move, uint64_t first, uint64_t end, const std::byte* from) {
  std::byte* to = move.to + static_cast<ptrdiff_t>(first) * move.to_stride;
  for (uint64_t r = first; r < end; ++r, from += move.stride, to += move.to_stride) {
    std::memcpy(to, from, kBytes);
  }
}

bool copy_small(const Move& move, uint64_t first, uint64_t end, const std::byte* from) {
  switch (move.bytes) {
    case 1:
      copy_runs<1>(move, first, end, from);
      return true;
    case 2:
      copy_runs<2>(move, first, end, from);
      return true;
    case 4:
      copy_runs<4>(move, first, end, from);
      return true;
    case 8:
      copy_runs<8>(move, first, end, from);
      return true;
    default:
      return false;
  }
}

}  // namespace

void Scatter::put(const ChunkWork& work, const std::byte* raw) {
  const StreamPlan& stream = plan_.stream_of(work);
  const uint64_t begin = work.id.chunk * stream.record->chunk_bytes;
  const uint64_t end = begin + plan_.size_of(work);
  for (uint32_t u = 0; u < work.uses; ++u) {
    const Move& move = stream.moves[plan_.uses[work.first_use + u]];
    const bool convert = plan_.elements[move.tensor].convert != nullptr;
    uint64_t run = move.first_run(begin);
    if (!convert && move.count > 1) {
      // Runs [run, whole) lie in the chunk from end to end, but for the first.
      const uint64_t first = run + (move.from + run * move.stride < begin ? 1 : 0);
      const uint64_t at = move.from + first * move.stride;
      const uint64_t fit = at + move.bytes > end ? 0 : (end - at - move.bytes) / move.stride + 1;
      const uint64_t whole = std::min(move.count, first + fit);
      if (first == run && whole > first && copy_small(move, first, whole, raw + (at - begin))) {
        run = whole;
      }
    }
    for (; run < move.count; ++run) {
      const uint64_t at = move.from + run * move.stride;
      if (at >= end) break;
      const uint64_t low = std::max(at, begin), high = std::min(at + move.bytes, end);
      if (convert) {
        put_converted(move, run, low, high, raw + (low - begin));
      } else {
        std::byte* to = move.to + static_cast<ptrdiff_t>(run) * move.to_stride;
        std::memcpy(to + (low - at), raw + (low - begin), high - low);
      }
    }
  }
}

// Bytes [low, high) of the stream, which lie at `from` and in the move's run.
void Scatter::put_converted(const Move& move, uint64_t run, uint64_t low, uint64_t high,
                            const std::byte* from) {
  const Element& element = plan_.elements[move.tensor];
  const uint64_t size = element.from_bytes;
  const uint64_t at = move.from + run * move.stride;
  std::byte* to = move.to + static_cast<ptrdiff_t>(run) * move.to_stride;
  const auto place = [&](uint64_t index) { return to + index * element.to_bytes; };
  const uint64_t first = (low - at + size - 1) / size;  // elements that are here as a whole
  const uint64_t end = (high - at) / size;
  if (first < end) {
    element.convert(place(first), from + (at + first * size - low), end - first);
  }
  if (const uint64_t cut = (low - at) % size; cut != 0) {
    put_part(place((low - at) / size), element, cut, from, std::min(size - cut, high - low));
  }
  if (end >= first && (high - at) % size != 0) {
    put_part(place(end), element, 0, from + (at + end * size - low), (high - at) % size);
  }
}

void Scatter::put_part(std::byte* to, const Element& element, uint64_t at, const std::byte* from,
                       uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  Part& part = parts_[to];
  std::memcpy(part.bytes.data() + at, from, bytes);
  part.have += static_cast<uint32_t>(bytes);
  if (part.have < element.from_bytes) return;
  element.convert(to, part.bytes.data(), 1);
  parts_.erase(to);
}

}  // namespace convoy::ckpt
