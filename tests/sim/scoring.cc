#include "tests/sim/scoring.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace convoy::sim {
namespace {

using trace::Class;

template <class T>
std::set<T> as_set(const std::vector<T>& of) {
  return {of.begin(), of.end()};
}

std::set<std::pair<uint32_t, uint32_t>> undirected(
    const std::vector<std::pair<uint32_t, uint32_t>>& links) {
  std::set<std::pair<uint32_t, uint32_t>> out;
  for (const auto& [a, b] : links) out.insert(std::minmax(a, b));
  return out;
}

// "node0012" is host 12, as the simulator names them.
std::set<uint32_t> hosts_of(const trace::Culprit& culprit, uint32_t ranks_per_host) {
  std::set<uint32_t> hosts;
  for (const std::string& name : culprit.hosts) {
    hosts.insert(static_cast<uint32_t>(std::strtoul(name.c_str() + 4, nullptr, 10)));
  }
  if (!hosts.empty()) return hosts;
  for (const uint32_t rank : culprit.ranks) hosts.insert(rank / ranks_per_host);
  // Some ranks of a host are not the host.
  if (culprit.ranks.size() < hosts.size() * ranks_per_host) hosts.clear();
  return hosts;
}

}  // namespace

Interval wilson(uint64_t hits, uint64_t of) {
  if (of == 0) return {};
  constexpr double kZ = 1.959964;
  const auto n = static_cast<double>(of);
  const double p = static_cast<double>(hits) / n;
  const double middle = p + kZ * kZ / (2 * n);
  const double half = kZ * std::sqrt(p * (1 - p) / n + kZ * kZ / (4 * n * n));
  const double scale = 1 + kZ * kZ / n;
  return {std::max(0.0, (middle - half) / scale), std::min(1.0, (middle + half) / scale)};
}

bool same_culprit(const Truth& truth, const trace::Culprit& c, const Hosts& hosts) {
  const trace::Culprit& t = truth.culprit;
  if (truth.cls == Class::kDeadlockCycle) {
    return as_set(t.groups) == as_set(c.groups) || as_set(t.ranks) == as_set(c.ranks);
  }
  if (!t.hosts.empty()) {
    std::set<uint32_t> named = hosts_of(c, hosts.ranks_of_each);
    const std::set<uint32_t> right = hosts_of(t, 1);
    if (named == right) return true;
    named.insert(right.begin(), right.end());
    return truth.cls == Class::kSlowFabric && 2 * t.hosts.size() == hosts.count &&
           c.hosts.size() == t.hosts.size() && named.size() == hosts.count;
  }
  if (!t.links.empty()) {
    return truth.cls == Class::kSlowIntranode ? undirected(t.links) == undirected(c.links)
                                              : as_set(t.links) == as_set(c.links);
  }
  if (t.stage >= 0) return t.stage == c.stage;
  return t.ranks.empty() || as_set(t.ranks) == as_set(c.ranks);
}

Score score(const Truth& truth, std::span<const trace::Verdict> verdicts, size_t faults,
            const Outcome& outcome, const Hosts& hosts) {
  Score s;
  for (const trace::Verdict& v : verdicts.first(std::min(faults, verdicts.size()))) {
    const bool culprit = same_culprit(truth, v.culprit, hosts);
    if (v.cls == truth.cls && (!s.found || (culprit && !s.culprit))) {
      s.found = true;
      s.culprit = culprit;
      s.latency_s = static_cast<double>(v.told - truth.onset) * 1e-9;
      s.after_deadline_s.reset();
      if (v.due != 0) s.after_deadline_s = static_cast<double>(v.told - v.due) * 1e-9;
      s.latency_steps = static_cast<double>(std::ranges::count_if(
          outcome.step_ends, [&](int64_t end) { return end > truth.onset && end <= v.told; }));
    } else if (!s.found) {
      s.culprit = s.culprit || culprit;
    }
    s.second_best = s.second_best || v.runner_up == truth.cls;
  }
  s.second_best = s.second_best || s.found;
  return s;
}

std::vector<trace::Verdict> counted(std::span<const trace::Verdict> verdicts, bool warm_up) {
  std::vector<trace::Verdict> out;
  for (const trace::Verdict& v : verdicts) {
    if (warm_up || v.cls != Class::kWarmUp) out.push_back(v);
  }
  std::ranges::stable_sort(out, std::ranges::greater(), &trace::Verdict::confidence);
  return out;
}

}  // namespace convoy::sim
