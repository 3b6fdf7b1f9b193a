#pragma once

#include "trace/analysis/slow/findings.h"

#include <cstdint>
#include <vector>

// A step as a graph of dependencies, to be run again with something changed.
namespace convoy::trace::slow {

// What a step is made of, medians over the window's newest steps. Times in ns.
struct StepModel {
  uint32_t stages = 1, replicas = 1;
  uint32_t micro_batches = 1;
  // [replica * stages + stage]: one micro-batch; tensor-parallel ranks wait for each other, so the
  // slowest counts.
  std::vector<float> forward, backward;
  std::vector<float> rest;  // [replica]: data, optimizer, checkpoint …
  float reduction = 0;      // what of the gradients' reduction is not hidden
};

// `work[rank]`: its computation in a step; the model's forward and backward are scaled to it.
StepModel make_model(const View& view, const std::vector<float>& work);
// Each rank's computation, of the newest steps.
std::vector<float> work_of(const View& view);
// How long the step takes: each replica's pipeline (one forward, one backward in turn), then the
// slowest replica's end, the reduction, the rest.
float replay(const StepModel& model);

}  // namespace convoy::trace::slow
