#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace convoy::trace {

// How durations are spread: counts in half octaves, from 1 us on.
class Sketch {
 public:
  void add(int64_t ns) {
    ++counts_[bucket(ns)];
    if (++total_ == kTotalMax) halve();
  }
  uint32_t total() const { return total_; }
  // No less than the quantile, and at most 1.5 times it. 0: nothing was added.
  int64_t quantile(double q) const {
    const auto rank = static_cast<uint64_t>(q * total_);
    uint64_t seen = 0;
    for (size_t b = 0; b < counts_.size(); ++b) {
      seen += counts_[b];
      if (counts_[b] != 0 && seen > rank) return edge(b);
    }
    return 0;
  }

 private:
  static constexpr uint32_t kTotalMax = 1U << 22;  // old ones fade
  static size_t bucket(int64_t ns) {
    const uint64_t us = static_cast<uint64_t>(std::max<int64_t>(ns, 1024)) >> 10;
    const auto octave = static_cast<size_t>(std::bit_width(us) - 1);
    const size_t half = octave == 0 ? 0 : us >> (octave - 1) & 1;
    return std::min<size_t>(octave * 2 + half, 95);
  }
  static int64_t edge(size_t bucket) {
    const size_t octave = bucket / 2;
    if (octave == 0) return 2048;
    return static_cast<int64_t>((3 + bucket % 2) << (octave - 1) << 10);
  }
  void halve() {
    total_ = 0;
    for (uint32_t& c : counts_) total_ += c /= 2;
  }

  std::array<uint32_t, 96> counts_{};
  uint32_t total_ = 0;
};

}  // namespace convoy::trace
