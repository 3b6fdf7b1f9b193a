#pragma once

#include <algorithm>
#include <array>
#include <bit>
#include <cstdint>

namespace convoy::trace {

// Counts of numbers by their size, eight classes to a doubling: quantiles are right within 7 %.
class Histogram {
 public:
  void add(uint64_t value) {
    ++counts_[class_of(value)];
    ++count_;
    sum_ += static_cast<double>(value);
    max_ = std::max(max_, value);
  }
  uint64_t count() const { return count_; }
  uint64_t max() const { return max_; }
  double sum() const { return sum_; }
  // The middle of the class in which the quantile lies; 0 without numbers.
  uint64_t quantile(double q) const {
    const auto wanted = static_cast<uint64_t>(q * static_cast<double>(count_));
    uint64_t seen = 0;
    for (size_t i = 0; i < counts_.size(); ++i) {
      seen += counts_[i];
      if (seen > wanted) return std::min(middle_of(i), max_);
    }
    return max_;
  }

 private:
  static size_t class_of(uint64_t value) {
    if (value < 8) return value;
    const auto exponent = static_cast<unsigned>(std::bit_width(value)) - 1;
    return (exponent - 2) * 8 + ((value >> (exponent - 3)) & 7);
  }
  static uint64_t middle_of(size_t i) {
    if (i < 8) return i;
    const size_t exponent = i / 8 + 2;
    const uint64_t low = (uint64_t{8} | (i & 7)) << (exponent - 3);
    return low + (uint64_t{1} << (exponent - 3)) / 2;
  }

  std::array<uint32_t, 62 * 8> counts_{};
  uint64_t count_ = 0, max_ = 0;
  double sum_ = 0;
};

}  // namespace convoy::trace
