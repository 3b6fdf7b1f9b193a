// Cutting layers into stages: no layer lost or doubled and no empty stage for all small problems
// and awkward weights, and the cost of the most expensive stage against a brute-force search.
#include <convoy/parallel/schedule/partition.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <functional>

namespace convoy::schedule {
namespace {

double cost_of(const std::vector<LayerRange>& ranges, const StageWeights& weights) {
  double most = 0;
  for (size_t s = 0; s < ranges.size(); ++s) {
    most = std::max(most, ranges[s].size() * weights.layer + (s == 0 ? weights.embedding : 0) +
                              (s + 1 == ranges.size() ? weights.head : 0));
  }
  return most;
}

// The least cost of the most expensive stage, by trying every cut.
double brute_force(int layers, int stages, const StageWeights& weights) {
  double best = 1e300;
  std::vector<LayerRange> ranges;
  const std::function<void(int)> next = [&](int begin) {
    if (ranges.size() + 1 == static_cast<size_t>(stages)) {
      if (begin == layers) return;
      ranges.push_back({begin, layers});
      best = std::min(best, cost_of(ranges, weights));
      ranges.pop_back();
      return;
    }
    for (int end = begin + 1; end < layers; ++end) {
      ranges.push_back({begin, end});
      next(end);
      ranges.pop_back();
    }
  };
  next(0);
  return best;
}

TEST_CASE("no layer is lost, no stage is empty, and the worst stage is as cheap as possible") {
  const StageWeights cases[] = {{},        {1, 0.5, 0.5},     {1, 0, 2.3},
                                {1, 3, 0}, {0.1, 0.25, 0.37}, {1, 9, 9}};
  for (const StageWeights& weights : cases) {
    for (int stages = 1; stages <= 6; ++stages) {
      for (int layers = stages; layers <= 13; ++layers) {
        CAPTURE(stages, layers, weights.embedding, weights.head);
        const auto ranges = partition_layers(layers, stages, weights);
        REQUIRE(ranges.ok());
        REQUIRE(ranges->size() == static_cast<size_t>(stages));
        int next = 0;
        for (const LayerRange& range : *ranges) {
          REQUIRE(range.begin == next);
          REQUIRE(range.size() >= 1);
          next = range.end;
        }
        REQUIRE(next == layers);
        REQUIRE(cost_of(*ranges, weights) == Approx(brute_force(layers, stages, weights)));
      }
    }
  }
}

TEST_CASE("uneven cuts put fewer layers early, and weights move layers away") {
  REQUIRE(*partition_layers(8, 3) == std::vector<LayerRange>{{0, 2}, {2, 5}, {5, 8}});
  REQUIRE(*partition_layers(30, 4) == std::vector<LayerRange>{{0, 7}, {7, 14}, {14, 22}, {22, 30}});
  REQUIRE(*partition_layers(8, 4, {1, 0, 2}) ==
          std::vector<LayerRange>{{0, 2}, {2, 4}, {4, 7}, {7, 8}});
}

TEST_CASE("stages without layers are refused") {
  REQUIRE(partition_layers(3, 4).status().message() ==
          "3 layers cannot fill 4 pipeline stages: each stage needs at least one layer. Use a "
          "smaller pp degree, fewer chunks, or more layers.");
  REQUIRE_FALSE(partition_layers(3, 0).ok());
  REQUIRE_FALSE(partition_layers(3, 2, {1, -1, 0}).ok());
}

}  // namespace
}  // namespace convoy::schedule
