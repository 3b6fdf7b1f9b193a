#pragma once

#include <convoy/sim/cluster.h>
#include <convoy/trace/verdict.h>

#include <cstdint>
#include <optional>
#include <span>
#include <utility>
#include <vector>

// How a diagnosis compares with the truth.
namespace convoy::sim {

struct Interval {
  double low = 0, high = 1;
};
// Of a share of `hits` in `of` trials, 95 %.
Interval wilson(uint64_t hits, uint64_t of);

struct Hosts {
  uint32_t ranks_of_each = 8, count = 1;
};

// Whether exactly the right ones are blamed. All ranks of a host are the host. Between two halves
// of a network there is one border, whichever half is named.
bool same_culprit(const Truth& truth, const trace::Culprit& culprit, const Hosts& hosts);

struct Score {
  bool found = false;    // its class is among the verdicts, as many as there are faults
  bool culprit = false;  // the right ones are blamed, whatever the class
  bool second_best = false;
  double latency_s = 0;  // from the onset to the verdict; where found
  double latency_steps = 0;
  // From when the first wait for it was overdue; below 0: before. Empty: no wait was, or not found.
  std::optional<double> after_deadline_s;
};
// Of one truth. `verdicts`: without those about the warm-up, surest first.
Score score(const Truth& truth, std::span<const trace::Verdict> verdicts, size_t faults,
            const Outcome& outcome, const Hosts& hosts);
// Those that count: not suppressed, surest first.
std::vector<trace::Verdict> counted(std::span<const trace::Verdict> verdicts, bool warm_up);

}  // namespace convoy::sim
