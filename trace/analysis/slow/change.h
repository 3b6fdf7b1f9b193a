#pragma once

#include "trace/analysis/slow/robust.h"

#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

// A change that lasts, told from noise.
namespace convoy::trace::slow {

inline constexpr float kMissing = std::numeric_limits<float>::quiet_NaN();

// One value for each rank (or link …) and step of the window; kMissing where there is none.
class Table {
 public:
  Table(size_t rows, size_t columns) : columns_(columns), values_(rows * columns, kMissing) {}
  float& at(size_t row, size_t column) { return values_[row * columns_ + column]; }
  float at(size_t row, size_t column) const { return values_[row * columns_ + column]; }
  const float* row(size_t row) const { return values_.data() + row * columns_; }
  size_t rows() const { return columns_ == 0 ? 0 : values_.size() / columns_; }
  size_t columns() const { return columns_; }

 private:
  size_t columns_;
  std::vector<float> values_;
};

// How far values of one row scatter from step to step, slow changes left out; kMissing: too few.
float noise_of(const float* row, size_t columns);
// Of all rows: the median.
float noise_of(const Table& table);
// How far rows differ for good, by their lower half: a fault lifts, it never lowers.
float static_spread(const Table& table);

// What a value was in the first steps; follows it down, for those may have been slow themselves.
class Base {
 public:
  void learn(float value) {
    if (!(value > 0)) return;
    if (value_ != 0 && value > kLower * value_) {
      newest_.clear();
      return;
    }
    newest_.push_back(value);
    if (newest_.size() < kSteps) return;
    value_ = median(newest_);
    newest_ = {};
  }
  float value() const { return value_; }  // 0: not known yet

 private:
  static constexpr size_t kSteps = 5;
  static constexpr float kLower = 0.85F;
  std::vector<float> newest_;
  float value_ = 0;
};

// How much rows differ in the newest columns, by their lower half.
float newest_spread(const Table& table);

struct Change {
  bool found = false;
  size_t begin = 0;        // column
  float level = 0;         // median since then
  float significance = 0;  // level in standard errors
};

struct ChangeLimits {
  float level = 0;      // at least
  float noise = 0;      // of a value
  float sigmas = 6.5F;  // of 10,000 ranks over many steps, chance brings none so far
  size_t steps = 3;     // at least
};

// Whether the newest values of `row` are raised, and since when.
Change raised(const float* row, size_t columns, const ChangeLimits& limits);

}  // namespace convoy::trace::slow
