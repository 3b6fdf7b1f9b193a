#pragma once

#include <convoy/base/status.h>

#include <vector>

namespace convoy::schedule {

// Layers [begin, end) of one pipeline stage.
struct LayerRange {
  int begin = 0;
  int end = 0;

  int size() const { return end - begin; }
  bool operator==(const LayerRange&) const = default;
};

// What stages cost, in the time of one layer: the first stage has the embedding on top of its
// layers, the last one the head and the loss.
struct StageWeights {
  double layer = 1;
  double embedding = 0;
  double head = 0;
};

// Cuts layers 0..layers-1 into `stages` consecutive ranges, each with at least one layer, so that
// the most expensive stage is as cheap as possible; among those, the most even cut (least sum of
// squares); among those, the one with fewer layers in the early stages, which hold more
// activations. kInvalidArgument if there are fewer layers than stages or a weight is negative.
Result<std::vector<LayerRange>> partition_layers(int layers, int stages,
                                                 const StageWeights& weights = {});

}  // namespace convoy::schedule
