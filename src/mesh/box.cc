// Set arithmetic on boxes of the index space, and how a box that lies in two strided memories
// becomes as few strided byte runs as possible. Chooses nothing: who serves whom is reshard.cc.
#include "src/mesh/box.h"

#include <algorithm>

namespace convoy {
namespace {

// A loop over `count` runs.
struct Level {
  int64_t count;
  int64_t src_stride;
  int64_t dst_stride;
};

int64_t offset_of(const Box& box, const Piece& piece) {
  int64_t offset = piece.offset;
  for (size_t d = 0; d < box.begin.size(); ++d) {
    offset += (box.begin[d] - piece.begin[d]) * piece.strides[d];
  }
  return offset;
}

// The dimensions of `box` as nested loops, innermost first, after joining those that are one loop
// in both memories. `run` becomes the number of elements that are consecutive in both.
std::vector<Level> loops_of(const Box& box, const Piece& src, const Piece& dst, int64_t& run) {
  run = 1;
  std::vector<Level> levels;
  for (size_t d = box.extent.size(); d-- > 0;) {
    const Level next{box.extent[d], src.strides[d], dst.strides[d]};
    if (next.count == 1) continue;
    if (levels.empty() && next.src_stride == run && next.dst_stride == run) {
      run *= next.count;
    } else if (!levels.empty() &&
               next.src_stride == levels.back().count * levels.back().src_stride &&
               next.dst_stride == levels.back().count * levels.back().dst_stride) {
      levels.back().count *= next.count;
    } else {
      levels.push_back(next);
    }
  }
  return levels;
}

void emit_loops(const std::vector<Level>& outer, size_t depth, const Transfer& transfer,
                std::vector<Transfer>& out) {
  if (depth == outer.size()) {
    out.push_back(transfer);
    return;
  }
  Transfer next = transfer;
  for (int64_t i = 0; i < outer[depth].count; ++i) {
    emit_loops(outer, depth + 1, next, out);
    next.src_offset += outer[depth].src_stride;
    next.dst_offset += outer[depth].dst_stride;
  }
}

// Box or Piece.
template <class B>
int64_t overlap_of(const Box& a, const B& b) {
  int64_t elements = 1;
  for (size_t d = 0; d < a.begin.size(); ++d) {
    const int64_t begin = std::max(a.begin[d], b.begin[d]);
    const int64_t end = std::min(a.begin[d] + a.extent[d], b.begin[d] + b.extent[d]);
    if (begin >= end) return 0;
    elements *= end - begin;
  }
  return elements;
}

}  // namespace

int64_t Box::elements() const {
  int64_t elements = 1;
  for (const int64_t size : extent) elements *= size;
  return elements;
}

std::string Box::to_string() const {
  std::string text = "[";
  for (size_t d = 0; d < begin.size(); ++d) {
    text += (d == 0 ? "" : ", ") + std::to_string(begin[d]) + ':' +
            std::to_string(begin[d] + extent[d]);
  }
  return text + "]";
}

int64_t overlap(const Box& a, const Box& b) {
  return overlap_of(a, b);
}

int64_t overlap(const Box& a, const Piece& b) {
  return overlap_of(a, b);
}

std::optional<Box> intersect(const Box& a, const Box& b) {
  if (overlap(a, b) == 0) return {};
  Box box = a;
  for (size_t d = 0; d < a.begin.size(); ++d) {
    box.begin[d] = std::max(a.begin[d], b.begin[d]);
    box.extent[d] = std::min(a.begin[d] + a.extent[d], b.begin[d] + b.extent[d]) - box.begin[d];
  }
  return box;
}

void subtract(const Box& box, const Box& hole, std::vector<Box>& out) {
  Box rest = box;  // outer dimensions first, so that what is left has long runs
  for (size_t d = 0; d < box.begin.size(); ++d) {
    const int64_t end = rest.begin[d] + rest.extent[d];
    const int64_t hole_end = hole.begin[d] + hole.extent[d];
    const auto keep = [&](int64_t from, int64_t to) {
      if (from >= to) return;
      Box part = rest;
      part.begin[d] = from;
      part.extent[d] = to - from;
      out.push_back(std::move(part));
    };
    keep(rest.begin[d], hole.begin[d]);
    keep(hole_end, end);
    rest.begin[d] = hole.begin[d];
    rest.extent[d] = hole.extent[d];
  }
}

void emit_transfers(const Box& box, const Piece& src, const Piece& dst, int64_t dtype_bytes,
                    const Transfer& like, std::vector<Transfer>& out) {
  int64_t run = 1;
  std::vector<Level> levels = loops_of(box, src, dst, run);
  for (Level& level : levels) {
    level.src_stride *= dtype_bytes;
    level.dst_stride *= dtype_bytes;
  }
  Transfer transfer = like;
  transfer.src_offset = offset_of(box, src) * dtype_bytes;
  transfer.dst_offset = offset_of(box, dst) * dtype_bytes;
  transfer.bytes = run * dtype_bytes;
  if (!levels.empty()) {  // the longest loop is the one that a transfer repeats
    const auto longest =
        std::max_element(levels.begin(), levels.end(),
                         [](const Level& a, const Level& b) { return a.count < b.count; });
    transfer.count = longest->count;
    transfer.src_stride = longest->src_stride;
    transfer.dst_stride = longest->dst_stride;
    levels.erase(longest);
  }
  emit_loops(levels, 0, transfer, out);
}

}  // namespace convoy
