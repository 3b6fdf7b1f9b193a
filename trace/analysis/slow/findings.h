#pragma once

#include "trace/analysis/slow/change.h"
#include "trace/analysis/slow/flows.h"
#include "trace/analysis/slow/links.h"
#include "trace/analysis/slow/roles.h"
#include "trace/analysis/slow/window.h"
#include <convoy/trace/clock_model.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/verdict.h>

#include <algorithm>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::trace::slow {

// What is wrong as of the newest step; SlowAnalysis makes verdicts of it.
struct Finding {
  Class cls = Class::kUnknown;
  Culprit culprit = {};
  uint32_t first_step = 0;  // of the change
  uint32_t last_step = 0;   // in which it was seen
  uint32_t hold_steps = 0;  // after it, the finding stands for so many
  float cost = 0, confidence = 0;
  double period_s = 0;
  Class runner_up = Class::kUnknown;
  float runner_up_confidence = 0;
  std::vector<Evidence> evidence = {};
  std::string summary = {};
  std::vector<std::pair<uint32_t, uint32_t>> slow_links = {};  // that it explains
};

// What findings are made from: the steps that (nearly) all ranks have told of.
struct View {
  const Registry& registry;
  const DiagnoserOptions& options;
  const Roles& roles;
  const Window& window;
  const Flows& flows;
  const Links& links;
  const ClockModel& clock;
  std::vector<uint32_t> steps;  // ordinary ones, oldest first; the last is the newest
  std::vector<float> lengths;   // of them, in ns: of the median ordinary rank, less checkpoints
  float step_ns = 1;            // how long a step takes, of the median rank
  uint32_t warm_until = 0;      // the last step of the warm-up
  float busy = 0;               // share of a step that the median rank was ready and had no core

  const RankStep* cell(uint32_t rank, size_t column) const {
    return window.find(rank, steps[column]);
  }
  // Slower by less is nobody's fault. Where cores are short everything varies by as much.
  float slow_share() const { return std::max(static_cast<float>(options.slow_share), busy); }
  uint32_t newest() const { return steps.back(); }
  uint32_t ranks() const { return window.ranks(); }
  std::string host(uint32_t rank) const {
    const uint32_t h = clock.host_of(rank);
    return h == ClockModel::kNone ? std::string() : clock.hosts()[h];
  }
  bool same_host(uint32_t a, uint32_t b) const {
    return clock.host_of(a) != ClockModel::kNone && clock.host_of(a) == clock.host_of(b);
  }
};

// As a rank, or as an end of a link.
inline bool names_rank(const Culprit& c, uint32_t rank) {
  return std::find(c.ranks.begin(), c.ranks.end(), rank) != c.ranks.end() ||
         std::any_of(c.links.begin(), c.links.end(),
                     [&](const auto& l) { return l.first == rank || l.second == rank; });
}

// printf
std::string text(const char* format, ...) __attribute__((format(printf, 1, 2)));

}  // namespace convoy::trace::slow
