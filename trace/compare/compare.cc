// Whether two lists of step times differ by more than their noise: Mann and Whitney's rank test,
// which asks for no distribution, and Hodges and Lehmann's estimate of the shift with its interval.
// Holm's correction keeps many comparisons from finding something by chance.
#include <convoy/trace/compare.h>

#include <algorithm>
#include <cmath>
#include <numeric>

namespace convoy::trace {
namespace {

constexpr size_t kPairsSide = 600;  // of a run's steps, for the shift
constexpr double kZ95 = 1.959963984540054;
constexpr double kCorrelationMax = 0.9;

double median(std::vector<double> values) {
  const size_t middle = values.size() / 2;
  std::nth_element(values.begin(), values.begin() + static_cast<long>(middle), values.end());
  if (values.size() % 2 == 1) return values[middle];
  return (values[middle] +
          *std::max_element(values.begin(), values.begin() + static_cast<long>(middle))) /
         2;
}

// Mid-ranks from 1 on, and Σ(t³ − t) over ties.
std::pair<std::vector<double>, double> ranks(const std::vector<double>& values) {
  std::vector<size_t> order(values.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::ranges::sort(order, {}, [&](size_t i) { return values[i]; });
  std::vector<double> out(values.size());
  double ties = 0;
  for (size_t i = 0; i < order.size();) {
    size_t j = i;
    while (j < order.size() && values[order[j]] == values[order[i]]) ++j;
    const auto t = static_cast<double>(j - i);
    ties += t * t * t - t;
    const double rank = (static_cast<double>(i + j) + 1) / 2;
    for (; i < j; ++i) out[order[i]] = rank;
  }
  return {out, ties};
}

// Of a step with the one before it, by ranks; at least 0.
double correlation(const std::vector<double>& values) {
  if (values.size() < 4) return 0;
  const std::vector<double> r = ranks(values).first;
  const double mean = (static_cast<double>(r.size()) + 1) / 2;
  double both = 0, one = 0;
  for (size_t i = 0; i < r.size(); ++i) {
    one += (r[i] - mean) * (r[i] - mean);
    if (i > 0) both += (r[i] - mean) * (r[i - 1] - mean);
  }
  return one == 0 ? 0 : std::clamp(both / one, 0.0, kCorrelationMax);
}

// By how much the standard error of a sum over neighbours is larger than without correlation.
double inflation(const std::vector<double>& a, const std::vector<double>& b) {
  const double r = std::max(correlation(a), correlation(b));
  return std::sqrt((1 + r) / (1 - r));
}

double p_of(const std::vector<double>& a, const std::vector<double>& b, double inflated) {
  const auto n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  std::vector<double> all = a;
  all.insert(all.end(), b.begin(), b.end());
  const auto [r, ties] = ranks(all);
  const double sum = std::accumulate(r.begin(), r.begin() + static_cast<long>(a.size()), 0.0);
  const double u = sum - n * (n + 1) / 2;
  const double variance = n * m / 12 * ((n + m + 1) - ties / ((n + m) * (n + m - 1)));
  if (variance <= 0) return 1;
  const double z = std::max(0.0, std::abs(u - n * m / 2) - 0.5) / std::sqrt(variance) / inflated;
  return std::erfc(z / std::sqrt(2.0));
}

std::vector<double> thinned(const std::vector<double>& values) {
  if (values.size() <= kPairsSide) return values;
  std::vector<double> out(kPairsSide);
  for (size_t i = 0; i < kPairsSide; ++i) out[i] = values[i * values.size() / kPairsSide];
  return out;
}

struct Shift {
  double at = 0, low = 0, high = 0;
};

Shift shift_of(const std::vector<double>& all_a, const std::vector<double>& all_b,
               double inflated) {
  const std::vector<double> a = thinned(all_a), b = thinned(all_b);
  std::vector<double> pairs;
  pairs.reserve(a.size() * b.size());
  for (const double x : a) {
    for (const double y : b) pairs.push_back(y - x);
  }
  std::ranges::sort(pairs);
  const auto n = static_cast<double>(a.size()), m = static_cast<double>(b.size());
  const double half = kZ95 * inflated * std::sqrt(n * m * (n + m + 1) / 12);
  const double last = n * m - 1;
  const auto at = [&](double place) {
    return pairs[static_cast<size_t>(std::clamp(place, 0.0, last))];
  };
  return {(at(last / 2) + at(std::ceil(last / 2))) / 2, at(std::floor(n * m / 2 - half)),
          at(std::ceil(n * m / 2 + half))};
}

void correct(std::vector<Difference>& all) {
  std::ranges::sort(all, {}, [](const Difference& d) { return d.p; });
  double largest = 0;
  for (size_t i = 0; i < all.size(); ++i) {
    largest = std::max(largest, std::min(1.0, all[i].p * static_cast<double>(all.size() - i)));
    all[i].p = largest;
  }
}

}  // namespace

std::vector<Difference> compare(const RunProfile& a, const RunProfile& b,
                                const CompareOptions& options) {
  const auto samples_a = a.samples(), samples_b = b.samples();
  std::vector<Difference> out;
  for (const auto& [quantity, values_a] : samples_a) {
    const auto other = samples_b.find(quantity);
    if (other == samples_b.end() || values_a.empty() || other->second.empty()) continue;
    const std::vector<double>& values_b = other->second;
    Difference d;
    d.quantity = quantity;
    d.steps_a = values_a.size();
    d.steps_b = values_b.size();
    d.median_a = median(values_a);
    d.median_b = median(values_b);
    const double inflated = inflation(values_a, values_b);
    d.p = p_of(values_a, values_b, inflated);
    const Shift shift = shift_of(values_a, values_b, inflated);
    if (d.median_a > 0) {
      d.change = shift.at / d.median_a;
      d.low = shift.low / d.median_a;
      d.high = shift.high / d.median_a;
    }
    out.push_back(std::move(d));
  }
  correct(out);
  for (Difference& d : out) {
    d.beyond_noise = std::min(d.steps_a, d.steps_b) >= options.steps_min && d.p <= options.level &&
                     std::abs(d.change) >= options.min_change;
  }
  std::ranges::stable_sort(out, [](const Difference& x, const Difference& y) {
    if (x.beyond_noise != y.beyond_noise) return x.beyond_noise;
    if (x.quantity.aspect != y.quantity.aspect) return x.quantity.aspect < y.quantity.aspect;
    return std::abs(x.median_b - x.median_a) > std::abs(y.median_b - y.median_a);
  });
  return out;
}

}  // namespace convoy::trace
