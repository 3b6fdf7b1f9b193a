#pragma once

#include <convoy/mesh/shard_spec.h>
#include <convoy/mesh/transfer.h>

#include <compare>
#include <cstdint>
#include <optional>
#include <string>
#include <vector>

namespace convoy {

// A part of the global index space; one entry per tensor dimension, extents at least 1.
struct Box {
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
  auto operator<=>(const Box&) const = default;  // NOLINT(modernize-use-nullptr): has no pointer

  int64_t elements() const;
  std::string to_string() const;  // "[0:4, 8:16]"
};

std::optional<Box> intersect(const Box& a, const Box& b);
// Elements in both, without building the box.
int64_t overlap(const Box& a, const Box& b);
int64_t overlap(const Box& a, const Piece& b);
// Appends disjoint boxes that make up `box` without `hole`, which lies inside of it.
void subtract(const Box& box, const Box& hole, std::vector<Box>& out);

// Appends the transfers that move `box` from `src` to `dst`, which both contain it. Element sizes
// and ids are put in by the caller's prototype `like`; offsets come out in bytes.
void emit_transfers(const Box& box, const Piece& src, const Piece& dst, int64_t dtype_bytes,
                    const Transfer& like, std::vector<Transfer>& out);

}  // namespace convoy
