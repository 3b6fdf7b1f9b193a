#pragma once

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <vector>

// Robust statistics: all of them bear a good part of wild values.
namespace convoy::trace::slow {

// The q-quantile (0 … 1), between neighbours. Reorders `values`; of none: 0.
inline float quantile(std::vector<float>& values, double q) {
  if (values.empty()) return 0;
  const double at = q * static_cast<double>(values.size() - 1);
  const auto low = values.begin() + static_cast<ptrdiff_t>(at);
  std::nth_element(values.begin(), low, values.end());
  const float first = *low;
  const double rest = at - std::floor(at);
  if (rest == 0 || low + 1 == values.end()) return first;
  return first + static_cast<float>(rest) * (*std::min_element(low + 1, values.end()) - first);
}

inline float median(std::vector<float>& values) {
  return quantile(values, 0.5);
}

// Median distance from `center`, scaled to be a normal distribution's standard deviation.
inline float spread(std::vector<float> values, float center) {
  for (float& v : values) v = std::abs(v - center);
  return 1.4826F * median(values);
}

}  // namespace convoy::trace::slow
