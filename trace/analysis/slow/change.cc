#include "trace/analysis/slow/change.h"

#include <algorithm>

namespace convoy::trace::slow {
namespace {

// The median of so few values scatters by so much more than their mean.
constexpr float kMedianFactor = 1.25F;

}  // namespace

float noise_of(const float* row, size_t columns) {
  std::vector<float> differences;
  float last = kMissing;
  for (size_t i = 0; i < columns; ++i) {
    if (std::isnan(row[i])) continue;
    if (!std::isnan(last)) differences.push_back(std::abs(row[i] - last));
    last = row[i];
  }
  if (differences.size() < 3) return kMissing;
  return 1.4826F / std::sqrt(2.0F) * median(differences);
}

float noise_of(const Table& table) {
  std::vector<float> all;
  for (size_t r = 0; r < table.rows(); ++r) {
    const float noise = noise_of(table.row(r), table.columns());
    if (!std::isnan(noise)) all.push_back(noise);
  }
  return all.empty() ? kMissing : median(all);
}

float static_spread(const Table& table) {
  std::vector<float> levels, values;
  for (size_t r = 0; r < table.rows(); ++r) {
    values.clear();
    for (size_t i = 0; i < table.columns(); ++i) {
      if (!std::isnan(table.at(r, i))) values.push_back(table.at(r, i));
    }
    if (!values.empty()) levels.push_back(median(values));
  }
  if (levels.size() < 8) return 0;
  // Between these two quantiles lie 1.26 standard deviations of a normal distribution.
  return (quantile(levels, 0.35) - quantile(levels, 0.05)) / 1.26F;
}

float newest_spread(const Table& table) {
  constexpr size_t kColumns = 3;
  std::vector<float> of_column, values;
  for (size_t i = table.columns() - std::min(kColumns, table.columns()); i < table.columns(); ++i) {
    values.clear();
    for (size_t r = 0; r < table.rows(); ++r) {
      if (!std::isnan(table.at(r, i))) values.push_back(table.at(r, i));
    }
    if (values.size() < 8) continue;
    of_column.push_back((quantile(values, 0.35) - quantile(values, 0.05)) / 1.26F);
  }
  return median(of_column);
}

Change raised(const float* row, size_t columns, const ChangeLimits& limits) {
  Change best;
  std::vector<float> newest, copy;
  for (size_t i = columns; i-- > 0;) {
    if (std::isnan(row[i])) continue;
    newest.push_back(row[i]);
    const size_t n = newest.size();
    // The newest one must be raised itself, or all is over.
    if (n == 1 && row[i] < limits.level / 3) return best;
    if (n < limits.steps || row[i] < limits.level / 3) continue;
    copy = newest;
    const float level = median(copy);
    const float error = kMedianFactor * limits.noise / std::sqrt(static_cast<float>(n));
    if (level < limits.level || level < limits.sigmas * error) continue;
    const auto high =
        std::count_if(newest.begin(), newest.end(), [&](float v) { return v > level / 3; });
    if (static_cast<size_t>(high) * 5 < n * 4) continue;
    const float significance = level / std::max(error, 1e-6F);
    if (significance > best.significance) best = {true, i, level, significance};
  }
  return best;
}

}  // namespace convoy::trace::slow
