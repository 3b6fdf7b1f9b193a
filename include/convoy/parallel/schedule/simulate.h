#pragma once

#include <convoy/base/status.h>
#include <convoy/parallel/schedule/schedule.h>

#include <vector>

namespace convoy::schedule {

// Any one unit of time. A forward costs what all chunks of a rank take for one micro-batch
// together, so that schedules with different numbers of chunks compare.
struct Costs {
  double forward = 1;
  double backward = 2;
  double comm = 0;  // from the end of a compute until the message can be used by the next stage
  std::vector<double> stage_scale;  // [stages] factor on each stage's compute; empty: all 1
};

struct Span {
  Action action;  // compute only
  double start = 0;
  double end = 0;
};

struct Timeline {
  std::vector<std::vector<Span>> ranks;  // in the order of execution
  double makespan = 0;
  // The share of all ranks' time in which nothing is computed: 1 - busy / (ranks * makespan). For
  // GPipe and 1F1B with equal stages and free messages it is (p - 1) / (m + p - 1).
  double bubble_fraction = 0;
};

// When everything runs if sends are asynchronous and a receive is waited for just before its use.
// kInvalidArgument if the costs are not positive (comm: negative), stage_scale has another length,
// or the schedule is not valid.
Result<Timeline> simulate(const Schedule& schedule, const Costs& costs = {});

}  // namespace convoy::schedule
