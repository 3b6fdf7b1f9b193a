#include "trace/analysis/describe.h"

#include <algorithm>
#include <cstdio>
#include <map>

namespace convoy::trace {

std::string seconds_text(int64_t ns) {
  char text[32];
  std::snprintf(text, sizeof text, "%.2f s", static_cast<double>(ns) / 1e9);
  return text;
}

std::string ranks_text(const std::vector<uint32_t>& ranks) {
  constexpr size_t kShown = 8;
  std::string text = ranks.size() == 1 ? "rank " : "ranks ";
  for (size_t i = 0; i < std::min(ranks.size(), kShown); ++i) {
    if (i != 0) text += ", ";
    text += std::to_string(ranks[i]);
  }
  if (ranks.size() > kShown) text += ", … (" + std::to_string(ranks.size()) + ")";
  return text;
}

std::string group_name(const Registry& registry, uint32_t group) {
  if (group < registry.groups().size()) return registry.groups()[group].name;
  return "group " + std::to_string(group);
}

std::string signature_text(const Signature& s) {
  std::string text = s.operation;
  if (!s.dtype.empty()) text += " " + s.dtype;
  if (!s.reduction.empty()) text += " " + s.reduction;
  if (s.root >= 0) text += " root " + std::to_string(s.root);
  return text + ", " + std::to_string(s.bytes) + " bytes";
}

std::string place_text(const Registry& registry, const Place& place) {
  const std::string group = group_name(registry, place.group);
  if (place.is_message()) {
    return "message " + std::to_string(place.sequence) + " of rank " +
           std::to_string(place.sender) + " to rank " + std::to_string(place.receiver) + " in " +
           group;
  }
  return "collective " + std::to_string(place.sequence) + " of " + group;
}

Verdict make_verdict(Class c, std::vector<uint32_t> ranks, int64_t onset, double confidence) {
  Verdict v;
  v.cls = c;
  std::sort(ranks.begin(), ranks.end());
  v.culprit.ranks = std::move(ranks);
  v.onset = onset;
  v.confidence = confidence;
  v.cost = 1;
  v.action = action_of(c);
  return v;
}

void add_evidence(Verdict& verdict, uint32_t rank, const Place& place, std::string text) {
  constexpr size_t kEvidenceMax = 16;
  if (verdict.evidence.size() >= kEvidenceMax) return;
  verdict.evidence.push_back({rank, place.group, place.sequence, std::move(text)});
}

void add_hosts(Verdict& verdict, const ClockModel& clocks) {
  std::map<uint32_t, size_t> blamed;
  for (const uint32_t r : verdict.culprit.ranks) {
    if (clocks.host_of(r) != ClockModel::kNone) ++blamed[clocks.host_of(r)];
  }
  for (const auto& [host, count] : blamed) {
    if (count < 2 || count < clocks.ranks_of(host).size()) continue;
    verdict.culprit.hosts.push_back(clocks.hosts()[host]);
  }
}

}  // namespace convoy::trace
