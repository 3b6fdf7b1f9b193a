// Which of several nodes is worse than the others, and in what. Pure.
#include "src/resilience/doctor/compare.h"

#include "src/resilience/doctor/checks.h"

#include <algorithm>
#include <cmath>
#include <map>
#include <set>

namespace convoy::resilience {
namespace {

// Least ratio to the median: healthy nodes differ by some percent in bandwidth, but easily by half
// in latency.
constexpr double kWorseRate = 1.3;
constexpr double kWorseLatency = 2;
constexpr double kMads = 3;
// Or so much worse than the worst sibling: two siblings that differ widely must not hide anything.
constexpr double kWorseThanAll = 3;
constexpr double kToSigma = 1.4826;  // MAD of a normal distribution → its standard deviation
constexpr double kTimesMax = 1e6;    // instead of infinity

using Metrics = std::map<std::string, std::map<std::string, double>>;  // check → node → value

struct Kind {
  Better better = Better::kNeither;
  std::string unit{};
};

Status check_reports(std::span<const DoctorReport> reports) {
  if (reports.size() < 2) {
    return {Code::kInvalidArgument, "a comparison needs the reports of two nodes or more"};
  }
  std::set<std::string> nodes;
  for (const DoctorReport& report : reports) {
    if (!nodes.insert(report.node).second) {
      return {Code::kInvalidArgument,
              "two reports are of a node '" + report.node + "'; --node gives a node its name"};
    }
    if (report.is_quick != reports.front().is_quick) {
      return {Code::kInvalidArgument, "reports of --quick compare only with each other, but '" +
                                          report.node + "' and '" + reports.front().node +
                                          "' differ in it"};
    }
  }
  return ok_status();
}

// How many times `value` is worse than `other`; below 1 if it is better.
double times_worse(double value, double other, Better better) {
  const double good = better == Better::kHigher ? other : value;
  const double bad = better == Better::kHigher ? value : other;
  if (good <= 0) return 1;  // both are nothing, or no measurement
  return bad <= good / kTimesMax ? kTimesMax : good / bad;
}

// Of each check that can be compared, one value a node: the median over its folders or peers.
Metrics collect(std::span<const DoctorReport> reports, std::map<std::string, Kind>& kinds) {
  Metrics metrics;
  for (const DoctorReport& report : reports) {
    std::map<std::string, std::vector<double>> values;
    for (const CheckResult& result : report.results) {
      if (result.better == Better::kNeither || result.unit.empty()) continue;
      values[result.name].push_back(result.value);
      kinds[result.name] = {result.better, result.unit};
    }
    for (const auto& [name, all] : values) metrics[name][report.node] = median_of(all);
  }
  return metrics;
}

}  // namespace

double median_of(std::vector<double> values) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const size_t half = values.size() / 2;
  return values.size() % 2 == 1 ? values[half] : (values[half - 1] + values[half]) / 2;
}

std::optional<Deviation> stands_out(double value, const std::vector<double>& siblings,
                                    Better better, std::string_view unit) {
  if (siblings.empty() || better == Better::kNeither) return std::nullopt;
  Deviation deviation{.median = median_of(siblings)};
  std::vector<double> distances;
  for (const double each : siblings) distances.push_back(std::abs(each - deviation.median));
  deviation.mad = median_of(distances);
  deviation.times_worse = times_worse(value, deviation.median, better);
  const auto [least, most] = std::minmax_element(siblings.begin(), siblings.end());
  const double worst = better == Better::kHigher ? *least : *most;
  const bool is_far =
      std::abs(value - deviation.median) > kMads * kToSigma * deviation.mad ||  // MAD of one: 0
      times_worse(value, worst, better) >= kWorseThanAll;
  if (deviation.times_worse < (unit == "s" ? kWorseLatency : kWorseRate) || !is_far) {
    return std::nullopt;
  }
  return deviation;
}

Result<Comparison> compare_reports(std::span<const DoctorReport> reports) {
  CONVOY_RETURN_IF_ERROR(check_reports(reports));
  std::map<std::string, Kind> kinds;
  const Metrics metrics = collect(reports, kinds);
  Comparison comparison{.nodes = reports.size()};
  for (const auto& [name, nodes] : metrics) {
    if (nodes.size() < 2) continue;
    ++comparison.metrics;
    const Kind& kind = kinds[name];
    for (const auto& [node, value] : nodes) {
      std::vector<double> siblings;
      for (const auto& [other, its_value] : nodes) {
        if (other != node) siblings.push_back(its_value);
      }
      const auto deviation = stands_out(value, siblings, kind.better, kind.unit);
      if (!deviation) continue;
      comparison.outliers.push_back({.node = node,
                                     .name = name,
                                     .value = value,
                                     .median = deviation->median,
                                     .mad = deviation->mad,
                                     .times_worse = deviation->times_worse,
                                     .unit = kind.unit});
    }
  }
  std::stable_sort(
      comparison.outliers.begin(), comparison.outliers.end(),
      [](const Outlier& a, const Outlier& b) { return a.times_worse > b.times_worse; });
  return comparison;
}

std::string topic_of(const CheckResult& result) {
  return result.name.substr(0, result.name.find('.'));
}

void compare_peers(std::vector<CheckResult>& results) {
  constexpr size_t kPeersLeast = 3;
  const std::vector<CheckResult> before = results;
  for (CheckResult& result : results) {
    if (topic_of(result) != "network" || result.verdict != Verdict::kOk) continue;
    std::vector<double> siblings;
    for (const CheckResult& other : before) {
      const bool is_sibling = other.name == result.name && other.subject != result.subject;
      if (is_sibling && !other.unit.empty()) siblings.push_back(other.value);
    }
    if (siblings.size() + 1 < kPeersLeast) continue;
    const auto deviation = stands_out(result.value, siblings, result.better, result.unit);
    if (!deviation) continue;
    result = judged(result, false, Verdict::kWarn,
                    "about " + format_value(deviation->median, result.unit) + ", as other peers",
                    "Look at this peer's link and its load: it is " +
                        format_value(deviation->times_worse, "times") + " worse than the others.");
  }
}

}  // namespace convoy::resilience
