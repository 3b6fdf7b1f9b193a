#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <vector>

namespace convoy {

// Bytes to move from one local tensor to another: `count` runs of `bytes`, run i from
// src_offset + i·src_stride to dst_offset + i·dst_stride. Offsets and strides are in bytes. A
// column block of a matrix is one Transfer, not one a row. The strides mean nothing when count
// is 1.
struct Transfer {
  int src_rank = 0;  // global rank, or the id of another holder (a file)
  int dst_rank = 0;
  int64_t src_offset = 0;
  int64_t dst_offset = 0;
  int64_t bytes = 0;
  int64_t count = 1;
  int64_t src_stride = 0;
  int64_t dst_stride = 0;

  int64_t total_bytes() const { return bytes * count; }
  bool operator==(const Transfer&) const = default;
};

// The same bytes as plain runs (count 1), sorted by source and destination offset; runs that are
// adjacent at both ends are merged.
std::vector<Transfer> flatten(std::span<const Transfer> transfers);

// Joins transfers of one source and destination that continue each other. Sorts them by (src_rank,
// dst_rank, dst_offset).
void merge(std::vector<Transfer>& transfers);

// Executes a transfer between tensors in the same memory. They must not overlap.
inline void copy(const Transfer& t, const std::byte* src, std::byte* dst) {
  for (int64_t i = 0; i < t.count; ++i) {
    std::memcpy(dst + t.dst_offset + i * t.dst_stride, src + t.src_offset + i * t.src_stride,
                static_cast<size_t>(t.bytes));
  }
}

// The sender's half of a transfer: gathers its total_bytes() from `src` into `message`.
inline void pack(const Transfer& t, const std::byte* src, std::byte* message) {
  for (int64_t i = 0; i < t.count; ++i) {
    std::memcpy(message + i * t.bytes, src + t.src_offset + i * t.src_stride,
                static_cast<size_t>(t.bytes));
  }
}

// The receiver's half: scatters a packed message into `dst`.
inline void unpack(const Transfer& t, const std::byte* message, std::byte* dst) {
  for (int64_t i = 0; i < t.count; ++i) {
    std::memcpy(dst + t.dst_offset + i * t.dst_stride, message + i * t.bytes,
                static_cast<size_t>(t.bytes));
  }
}

}  // namespace convoy
