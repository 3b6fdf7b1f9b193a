// The lognormal table: quantiles of the normal distribution at the middles of 4096 equal shares.
#include "src/sim/random.h"

namespace convoy::sim {
namespace {

double normal_cdf(double z) {
  return 0.5 * std::erfc(-z / std::sqrt(2.0));
}

double normal_quantile(double p) {
  double low = -6, high = 6;
  for (int i = 0; i < 60; ++i) {
    const double middle = (low + high) / 2;
    (normal_cdf(middle) < p ? low : high) = middle;
  }
  return low;
}

const std::array<float, 4096>& quantiles() {
  static const std::array<float, 4096> all = [] {
    std::array<float, 4096> q{};
    for (size_t i = 0; i < q.size(); ++i) {
      q[i] = static_cast<float>(
          normal_quantile((static_cast<double>(i) + 0.5) / static_cast<double>(q.size())));
    }
    return q;
  }();
  return all;
}

}  // namespace

Jitter::Jitter(double sigma) : table_() {
  for (size_t i = 0; i < table_.size(); ++i) {
    table_[i] = static_cast<float>(std::exp(sigma * quantiles()[i]));
  }
}

}  // namespace convoy::sim
