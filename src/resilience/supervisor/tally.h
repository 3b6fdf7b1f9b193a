#pragma once

#include "src/resilience/incident/incident.h"

#include <array>
#include <cstdint>
#include <map>
#include <string>
#include <utility>

namespace convoy::resilience {

// Incidents that are over, counted for metrics.
struct Tally {
  // Of the recovery times; one more is without an upper limit.
  static constexpr std::array<double, 9> kLimits{0.5, 1, 2, 5, 10, 30, 60, 120, 300};

  std::map<std::pair<std::string, std::string>, int> incidents{};  // by kind and action
  std::array<int, kLimits.size() + 1> recoveries{};                // by their time
  double recovery_s = 0;                                           // the sum of these times
  int64_t steps_lost = 0;

  void add(const IncidentRecord& r) {
    ++incidents[{r.kind, r.action}];
    if (!r.survived) return;
    size_t i = 0;
    while (i < kLimits.size() && r.first_step > kLimits[i]) ++i;
    ++recoveries[i];
    recovery_s += r.first_step;
    steps_lost += r.steps_lost();
  }
};

}  // namespace convoy::resilience
