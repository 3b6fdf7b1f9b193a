#pragma once

#include <convoy/parallel/data/flat_buckets.h>
#include <convoy/parallel/tensor/parameter.h>

namespace convoy::runtime {

// Where a parameter stands in a pipeline.
struct PipelinePlace {
  int chunk = 0;
  bool split = false;        // the model is cut into stages
  bool second_copy = false;  // another pipeline rank's copy of a tied embedding counts already
};

// How the optimizer sees a layer's parameter: its elements that count in the norm, the sums that
// its gradient needs, and how the bucket's memory becomes its gradient. Keeps the parameter alive.
data::Param describe(const parallel::ParameterPtr& parameter, const PipelinePlace& place = {});

}  // namespace convoy::runtime
