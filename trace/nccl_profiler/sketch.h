#pragma once

#include <array>
#include <atomic>
#include <bit>
#include <cstddef>
#include <cstdint>

namespace convoy::trace::nccl {

// How often each duration occurs, in buckets of equal relative width: 64 for each power of two. A
// value that is read off is wrong by less than 0.8 % (kError) between kLeast and 2^35, where the
// buckets end. One thread adds; any may read.
class Sketch {
 public:
  static constexpr int kLeastBits = 8;  // shorter ones are counted as 0 … 2^8
  static constexpr int kMostBits = 35;
  static constexpr int kSteps = 64;  // for each power of two
  static constexpr double kError = 0.5 / kSteps;
  static constexpr size_t kBuckets = size_t{kMostBits - kLeastBits} * kSteps + 1;

  static size_t bucket_of(uint64_t value) {
    if (value < uint64_t{1} << kLeastBits) return 0;
    if (value >= uint64_t{1} << kMostBits) return kBuckets - 1;
    const int exponent = std::bit_width(value) - 1;
    const auto step = static_cast<size_t>(value >> (exponent - 6)) & (kSteps - 1);
    return 1 + static_cast<size_t>(exponent - kLeastBits) * kSteps + step;
  }
  // The middle of it.
  static double value_of(size_t bucket) {
    if (bucket == 0) return static_cast<double>(1 << kLeastBits) / 2;
    const size_t exponent = (bucket - 1) / kSteps, step = (bucket - 1) % kSteps;
    return (kSteps + static_cast<double>(step) + 0.5) / kSteps *
           static_cast<double>(uint64_t{1} << (exponent + kLeastBits));
  }

  void add(uint64_t value) {
    auto& count = counts_[bucket_of(value)];
    count.store(count.load(std::memory_order_relaxed) + 1, std::memory_order_relaxed);
  }
  uint32_t count(size_t bucket) const { return counts_[bucket].load(std::memory_order_relaxed); }
  void clear() {
    for (auto& count : counts_) count.store(0, std::memory_order_relaxed);
  }

 private:
  std::array<std::atomic<uint32_t>, kBuckets> counts_{};
};

}  // namespace convoy::trace::nccl
