#include "src/resilience/policy/blame.h"

#include <algorithm>
#include <set>

namespace convoy::resilience {
namespace {

constexpr Seconds kRecently = 3600;
constexpr int kSameStepMax = 3;  // faults in one step: then it is the step
constexpr int kNodeFaultsMax = 2;
constexpr double kRiskOfAny = 0.02;

bool ends_processes(FaultKind kind) {
  return kind == FaultKind::kExit || kind == FaultKind::kOutOfMemory || kind == FaultKind::kHang;
}

// Speaks against the node, rather than against what runs there.
bool speaks_against_node(FaultKind kind) {
  switch (kind) {
    case FaultKind::kExit:
    case FaultKind::kKilled:
    case FaultKind::kHang:
    case FaultKind::kNodeLost:
    case FaultKind::kNetwork:
    case FaultKind::kCorruption:
      return true;
    default:
      return false;
  }
}

bool is_on(const Incident& incident, int node) {
  return std::find(incident.nodes.begin(), incident.nodes.end(), node) != incident.nodes.end();
}

int faults_on(const History& history, int node, Seconds since) {
  return static_cast<int>(std::count_if(history.begin(), history.end(), [&](const Incident& i) {
    return i.fault.at >= since && speaks_against_node(i.fault.kind) && is_on(i, node);
  }));
}

}  // namespace

std::vector<int> nodes_of(const Job& job, const Fault& fault) {
  std::set<int> nodes(fault.nodes.begin(), fault.nodes.end());
  for (const int b : fault.blocks) nodes.insert(job.blocks[static_cast<size_t>(b)].node);
  nodes.erase(kNone);
  return {nodes.begin(), nodes.end()};
}

std::string program_to_blame(const History& history, const Fault& fault) {
  if (fault.kind == FaultKind::kMismatch) return name_of(fault.kind);
  const auto in_this_step = [&](auto&& is_alike) {
    return static_cast<int>(std::count_if(history.begin(), history.end(), [&](const Incident& i) {
      return i.fault.step == fault.step && !i.fault.is_one_more && is_alike(i.fault.kind);
    }));
  };
  const std::string step = std::to_string(fault.step);
  if (fault.kind == FaultKind::kNonFinite) {
    const bool again = in_this_step([](FaultKind k) { return k == FaultKind::kNonFinite; }) > 0;
    return again ? "the loss is not finite, again in step " + step + " after it was repeated" : "";
  }
  const auto is_corruption = [](FaultKind k) { return k == FaultKind::kCorruption; };
  if (is_corruption(fault.kind) && in_this_step(is_corruption) + 1 >= kSameStepMax) {
    return "replicas differ after step " + step + " for the " + std::to_string(kSameStepMax) +
           "rd time: the program does not treat them alike";
  }
  if (!ends_processes(fault.kind) || fault.is_one_more ||
      in_this_step(ends_processes) + 1 < kSameStepMax) {
    return "";
  }
  return "processes ended in step " + step + " for the " + std::to_string(kSameStepMax) +
         "rd time, wherever they ran";
}

Fruitless recoveries_without_a_step(const History& history, const Fault& fault) {
  Fruitless found;
  const auto count = [&](FaultKind kind) {
    if (kind == FaultKind::kReturned || kind == FaultKind::kDrain) return;
    ++found.all;
    if (kind != FaultKind::kKilled && kind != FaultKind::kNodeLost) ++found.from_inside;
  };
  count(fault.kind);
  for (auto i = history.rbegin(); i != history.rend() && !i->is_over; ++i) count(i->fault.kind);
  return found;
}

std::vector<int> unfit_nodes(const Job& job, const History& history, const Fault& fault) {
  if (!speaks_against_node(fault.kind)) return {};
  std::vector<int> unfit;
  for (const int node : nodes_of(job, fault)) {
    int before = faults_on(history, node, fault.at - kRecently);
    if (fault.kind == FaultKind::kCorruption) {  // remembered for longer
      before =
          static_cast<int>(std::count_if(history.begin(), history.end(), [&](const Incident& i) {
            return i.fault.kind == FaultKind::kCorruption && is_on(i, node);
          }));
    }
    if (before + 1 >= kNodeFaultsMax) unfit.push_back(node);
  }
  return unfit;
}

bool fails_at_once(const Job& job, const History& history, const Fault& fault) {
  if (history.empty() || !ends_processes(fault.kind) || fault.is_one_more) return false;
  const Incident& last = history.back();
  if (last.is_over || !ends_processes(last.fault.kind)) return false;
  const std::vector<int> nodes = nodes_of(job, fault);
  return std::any_of(nodes.begin(), nodes.end(), [&](int n) { return is_on(last, n); });
}

double risk_of(const History& history, int node, Seconds now) {
  const int faults = faults_on(history, node, now - kRecently);
  return std::max(kRiskOfAny, faults / (faults + 1.0));
}

}  // namespace convoy::resilience
