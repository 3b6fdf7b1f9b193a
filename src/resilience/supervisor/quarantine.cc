// A machine that has hurt the job more than once gets no ranks for a while, longer each time, and
// then not before `convoy doctor` finds it fit.
#include "src/resilience/supervisor/supervisor.h"

#include <algorithm>

namespace convoy::resilience {
namespace {

constexpr Nanos kProbation = std::chrono::seconds(20);  // the first one
constexpr int kDoubledMax = 8;                          // that is 85 minutes

}  // namespace

void Supervisor::quarantine(const std::vector<int>& nodes) {
  for (const int node : nodes) {
    if (!state_.quarantined.insert(node).second) continue;
    ++state_.quarantines[node];
    event(node_name(node) + " gets no ranks until it has passed its checks");
  }
}

void Supervisor::look_for_checks() {
  for (const int node : state_.quarantined) {
    if (!is_there(node)) continue;
    const TimePoint now = clock_->now();
    const int times = std::clamp(state_.quarantines[node] - 1, 0, kDoubledMax);
    const TimePoint next = now + kProbation * (1 << times);
    const auto [at, is_first] = check_at_.try_emplace(node, next);
    if (is_first || now < at->second) continue;
    at->second = next;  // again, should it fail
    proto::ToNode order;
    order.set_check(true);
    send_(node, order);
  }
}

void Supervisor::checked(int node, const proto::Checked& checked) {
  if (!state_.quarantined.contains(node)) return;
  if (!checked.is_fit()) {
    std::string& told = unfit_[node];
    if (std::exchange(told, checked.text()) == checked.text()) return;
    return say(node_name(node) + " gets no ranks: " + checked.text() +
               ". `convoy doctor` tells more there; it is asked again from time to time.");
  }
  state_.quarantined.erase(node);
  check_at_.erase(node);
  unfit_.erase(node);
  save();
  say(node_name(node) + " has passed its checks and may have ranks again.");
}

}  // namespace convoy::resilience
