// Decides which layers each stage holds, exactly, by two dynamic programs: the first finds the
// least possible cost of the most expensive stage, the second the most even cut under that cap.
#include <convoy/parallel/schedule/partition.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <string>

namespace convoy::schedule {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr double kSlack = 1e-9;  // relative: sums of weights that differ by rounding are equal

struct Problem {
  int layers;
  int stages;
  StageWeights weights;

  double cost(int stage, int begin, int end) const {
    return (end - begin) * weights.layer + (stage == 0 ? weights.embedding : 0) +
           (stage == stages - 1 ? weights.head : 0);
  }
};

// The cut with the least value, where a cut's value joins the costs of its stages from the left;
// stages above `cap` are not allowed. Of equal cuts, the one with fewer layers early.
struct Cut {
  double value = kInfinity;
  std::vector<LayerRange> ranges;
};

Cut best_cut(const Problem& problem, double cap,
             const std::function<double(double, double)>& join) {
  const int layers = problem.layers;
  // best[s][n]: value of the first s stages holding the first n layers; from[s][n]: where the last
  // of them begins.
  std::vector<std::vector<double>> best(problem.stages + 1,
                                        std::vector<double>(layers + 1, kInfinity));
  std::vector<std::vector<int>> from(problem.stages + 1, std::vector<int>(layers + 1, 0));
  best[0][0] = 0;
  for (int s = 1; s <= problem.stages; ++s) {
    for (int end = s; end <= layers - (problem.stages - s); ++end) {
      for (int begin = s - 1; begin < end; ++begin) {
        const double cost = problem.cost(s - 1, begin, end);
        if (best[s - 1][begin] == kInfinity || cost > cap) continue;
        const double value = join(best[s - 1][begin], cost);
        // Strictly better only, and begin grows: the smallest begin, so the largest last stage.
        if (best[s][end] == kInfinity || value < best[s][end] - kSlack * std::abs(value)) {
          best[s][end] = value;
          from[s][end] = begin;
        }
      }
    }
  }
  Cut cut{best[problem.stages][layers], std::vector<LayerRange>(problem.stages)};
  int end = layers;
  for (int s = problem.stages; s > 0; --s) {
    cut.ranges[s - 1] = {from[s][end], end};
    end = from[s][end];
  }
  return cut;
}

}  // namespace

Result<std::vector<LayerRange>> partition_layers(int layers, int stages,
                                                 const StageWeights& weights) {
  if (stages < 1 || layers < stages) {
    return Status(Code::kInvalidArgument,
                  std::to_string(layers) + " layers cannot fill " + std::to_string(stages) +
                      " pipeline stages: each stage needs at least one layer. Use a smaller pp "
                      "degree, fewer chunks, or more layers.");
  }
  const auto usable = [](double w) { return std::isfinite(w) && w >= 0; };
  if (!usable(weights.layer) || weights.layer == 0 || !usable(weights.embedding) ||
      !usable(weights.head)) {
    return Status(Code::kInvalidArgument,
                  "stage weights must be finite, the layer's above 0 and the others at least 0.");
  }
  const Problem problem{layers, stages, weights};
  const double cap =
      best_cut(problem, kInfinity, [](double a, double b) { return std::max(a, b); }).value;
  return best_cut(problem, cap * (1 + kSlack), [](double a, double b) { return a + b * b; }).ranges;
}

}  // namespace convoy::schedule
