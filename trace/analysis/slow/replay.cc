#include "trace/analysis/slow/replay.h"

#include <algorithm>

namespace convoy::trace::slow {
namespace {

constexpr size_t kSteps = 8;

template <typename Value>
float recent_median(const View& view, uint32_t rank, Value value) {
  std::vector<float> values;
  for (size_t i = view.steps.size() - std::min(kSteps, view.steps.size()); i < view.steps.size();
       ++i) {
    const RankStep* cell = view.cell(rank, i);
    if (cell != nullptr && !cell->special) values.push_back(value(*cell));
  }
  return median(values);
}

// One replica's pipeline. Stage p may be ahead by stages − p micro-batches, as in 1F1B.
float replay_pipeline(const StepModel& model, uint32_t replica) {
  const uint32_t p = model.stages, m = model.micro_batches;
  const float* forward = &model.forward[size_t{replica} * p];
  const float* backward = &model.backward[size_t{replica} * p];
  std::vector<float> forward_end(size_t{p} * m, -1), backward_end(size_t{p} * m, -1), free(p, 0);
  std::vector<uint32_t> forwards(p, 0), backwards(p, 0);
  for (uint32_t left = 2 * p * m; left > 0;) {
    const uint32_t before = left;
    for (uint32_t s = 0; s < p; ++s) {
      const uint32_t f = forwards[s], b = backwards[s];
      const bool is_forward = f < m && f - b < p - s;
      if (is_forward) {
        const float ready = s == 0 ? 0 : forward_end[size_t{s - 1} * m + f];
        if (ready < 0) continue;
        free[s] = forward_end[size_t{s} * m + f] = std::max(free[s], ready) + forward[s];
        ++forwards[s], --left;
      } else if (b < m) {
        const float ready =
            s + 1 == p ? forward_end[size_t{s} * m + b] : backward_end[size_t{s + 1} * m + b];
        if (ready < 0) continue;
        free[s] = backward_end[size_t{s} * m + b] = std::max(free[s], ready) + backward[s];
        ++backwards[s], --left;
      }
    }
    if (left == before) break;
  }
  return *std::max_element(free.begin(), free.end());
}

}  // namespace

std::vector<float> work_of(const View& view) {
  std::vector<float> work(view.ranks());
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    work[r] = recent_median(view, r, [](const RankStep& c) { return c.part[kCompute]; });
  }
  return work;
}

StepModel make_model(const View& view, const std::vector<float>& work) {
  StepModel model;
  model.stages = view.roles.stages();
  model.replicas = view.roles.replicas();
  std::vector<float> counts, reductions;
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    counts.push_back(recent_median(
        view, r, [](const RankStep& c) { return static_cast<float>(c.computations); }));
    const float reducing = recent_median(view, r, [](const RankStep& c) { return c.reducing; });
    if (reducing > 0) reductions.push_back(reducing);
  }
  model.micro_batches = std::clamp(static_cast<uint32_t>(median(counts) / 2), 1U, 1024U);
  // Whoever comes last waits for nobody.
  if (!reductions.empty())
    model.reduction = *std::min_element(reductions.begin(), reductions.end());
  const size_t cells = size_t{model.replicas} * model.stages;
  model.forward.assign(cells, 0);
  model.backward.assign(cells, 0);
  model.rest.assign(model.replicas, 0);
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const float forward = recent_median(view, r, [](const RankStep& c) {
      return c.halves[0] / std::max(1.0F, c.halves[0] + c.halves[1]);
    });
    const size_t at = size_t{view.roles.replica(r)} * model.stages + view.roles.stage(r);
    const float one = work[r] / static_cast<float>(model.micro_batches);
    model.forward[at] = std::max(model.forward[at], one * forward);
    model.backward[at] = std::max(model.backward[at], one * (1 - forward));
    const float rest = recent_median(view, r, [](const RankStep& c) {
      return c.part[kData] + c.part[kCheckpoint] + c.part[kGarbage];
    });
    float& slowest = model.rest[view.roles.replica(r)];
    slowest = std::max(slowest, rest);
  }
  return model;
}

float replay(const StepModel& model) {
  float longest = 0;
  for (uint32_t d = 0; d < model.replicas; ++d) {
    longest = std::max(longest, replay_pipeline(model, d) + model.rest[d]);
  }
  return longest + model.reduction;
}

}  // namespace convoy::trace::slow
