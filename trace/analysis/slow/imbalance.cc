#include "trace/analysis/slow/imbalance.h"

#include <algorithm>
#include <cmath>
#include <optional>

namespace convoy::trace::slow {
namespace {

constexpr float kEndStage = 0.1F;       // first and last have more to do than the others
constexpr float kGivenRatio = 1.2F;     // of bytes: busiest expert to the median
constexpr float kVaries = 0.04F;        // standard deviation of the work, of itself
constexpr float kCommonShare = 0.4F;    // of the variance, that forward and backward agree in …
constexpr float kCommonUnknown = 0.8F;  // … where nobody tells of tokens
constexpr float kTokensVary = 0.02F;    // the same as kVaries, of tokens
constexpr size_t kStepsMin = 5;
constexpr size_t kStepsData = 12, kStepsDataMin = 10;
constexpr float kSigmas = 3.5F;
constexpr float kBusyHost = 0.03F;  // of a step, that ranks are ready and have no core

// Steps since the values are at least half of what they are now.
size_t since(const std::vector<float>& values) {
  std::vector<float> newest(
      values.end() - std::min<ptrdiff_t>(6, static_cast<ptrdiff_t>(values.size())), values.end());
  const float half = median(newest) / 2;
  size_t at = values.size() - 1, low = 0;
  for (size_t i = values.size(); i-- > 0;) {
    low = values[i] < half ? low + 1 : 0;
    if (low >= 2) break;
    if (values[i] >= half) at = i;
  }
  return at;
}

// How much the tokens of a step differ between ranks that do the same work.
std::optional<float> tokens_vary(const View& view, size_t first) {
  std::vector<float> all, some;
  for (size_t i = first; i < view.steps.size(); ++i) {
    for (const auto& cohort : view.roles.cohorts()) {
      some.clear();
      for (const uint32_t r : cohort) {
        const RankStep* cell = view.cell(r, i);
        if (cell != nullptr && !cell->special && cell->tokens > 0) some.push_back(cell->tokens);
      }
      const float usual = median(some);
      for (const float t : some) all.push_back(std::log(t / usual));
    }
  }
  if (all.empty()) return std::nullopt;
  return spread(all, median(all));
}

}  // namespace

void Imbalance::stages(const View& view, std::vector<Finding>& found) {
  const uint32_t stages = view.roles.stages();
  if (stages < 2) return;
  const size_t columns = view.steps.size();
  Table work(stages, columns);
  std::vector<std::vector<float>> of(stages);
  for (size_t i = 0; i < columns; ++i) {
    for (auto& values : of) values.clear();
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      const RankStep* cell = view.cell(r, i);
      if (cell != nullptr && !cell->special)
        of[view.roles.stage(r)].push_back(cell->part[kCompute]);
    }
    for (uint32_t p = 0; p < stages; ++p) {
      // Of the stage's ranks nearly all: one slow rank is no slow stage.
      if (of[p].empty()) continue;
      const bool are_few = of[p].size() < 5;
      work.at(p, i) =
          are_few ? *std::min_element(of[p].begin(), of[p].end()) : quantile(of[p], 0.25);
    }
  }
  stage_base_.resize(stages);
  for (uint32_t p = 0; p < stages; ++p) stage_base_[p].learn(work.at(p, columns - 1));
  Table excess(stages, columns);
  std::vector<float> others, growth;
  for (size_t i = 0; i < columns; ++i) {
    growth.clear();
    for (uint32_t p = 0; p < stages; ++p) {
      if (stage_base_[p].value() > 0) growth.push_back(work.at(p, i) / stage_base_[p].value());
    }
    const float usual_growth = growth.empty() ? 1 : *std::min_element(growth.begin(), growth.end());
    for (uint32_t p = 0; p < stages; ++p) {
      others.clear();
      const bool is_end = p == 0 || p + 1 == stages;
      for (uint32_t q = is_end ? 0 : 1; q < stages - (is_end ? 0 : 1); ++q) {
        if (q != p && !std::isnan(work.at(q, i))) others.push_back(work.at(q, i));
      }
      float e = 0;
      if (is_end || others.empty()) {
        others.clear();
        for (uint32_t q = 0; q < stages; ++q) {
          if (q != p && !std::isnan(work.at(q, i))) others.push_back(work.at(q, i));
        }
        const float most = others.empty() ? 0 : *std::max_element(others.begin(), others.end());
        const float by_others = work.at(p, i) - (1 + kEndStage) * most;
        e = by_others > 0 ? work.at(p, i) - most : 0;
        if (stage_base_[p].value() > 0) {
          e = std::max(e, work.at(p, i) - usual_growth * stage_base_[p].value());
        }
      } else {
        e = work.at(p, i) - median(others);
      }
      excess.at(p, i) = e / view.step_ns;
    }
  }
  const float found_noise = noise_of(excess);
  const float noise = std::isnan(found_noise) ? 0.005F : std::max(0.003F, found_noise);
  for (uint32_t p = 0; p < stages; ++p) {
    const Change change =
        raised(excess.row(p), columns,
               {.level = view.slow_share(), .noise = noise, .steps = kStepsMin - 1});
    if (!change.found) continue;
    Finding f{.cls = Class::kImbalanceStage,
              .first_step = view.steps[change.begin],
              .last_step = view.newest(),
              .cost = change.level,
              .confidence = std::min(0.95F, 0.6F + 0.02F * change.significance),
              .runner_up = Class::kSlowHost,
              .runner_up_confidence = 0.15F};
    f.culprit.stage = static_cast<int32_t>(p);
    f.evidence.push_back({.text = text("all ranks of stage %u compute for %.1f ms a step, %.1f %% "
                                       "of a step longer than those of comparable stages",
                                       p, work.at(p, columns - 1) * 1e-6, 100 * change.level)});
    f.summary = text("stage %u of the pipeline has more work than the others", p);
    found.push_back(std::move(f));
  }
}

bool Imbalance::experts(const View& view, std::vector<Finding>& found) const {
  std::vector<float> ratios, costs, given, work;
  bool exchanges = false;
  for (size_t i = 0; i < view.steps.size(); ++i) {
    float ratio = 1, cost = 0;
    for (const auto& cohort : view.roles.cohorts()) {
      given.clear(), work.clear();
      for (const uint32_t r : cohort) {
        const RankStep* cell = view.cell(r, i);
        if (cell == nullptr || cell->special || cell->lossy || cell->given <= 0) continue;
        given.push_back(cell->given), work.push_back(cell->part[kCompute]);
      }
      if (given.size() < 2) continue;
      exchanges = true;
      const float most = *std::max_element(given.begin(), given.end());
      const float busiest = *std::max_element(work.begin(), work.end());
      ratio = std::max(ratio, most / std::max(1.0F, quantile(given, 0.35)));
      cost = std::max(cost, (busiest - quantile(work, 0.35)) / view.step_ns);
    }
    ratios.push_back(ratio - 1), costs.push_back(cost);
  }
  if (!exchanges || ratios.size() < 4) return exchanges;
  std::vector<float> newest(ratios.end() - 3, ratios.end()),
      newest_costs(costs.end() - 3, costs.end());
  const float ratio = median(newest) + 1, cost = median(newest_costs);
  if (ratio < kGivenRatio || cost < view.slow_share() / 2) return exchanges;
  Finding f{.cls = Class::kImbalanceExpert,
            .first_step = view.steps[since(ratios)],
            .last_step = view.newest(),
            .hold_steps = 3,
            .cost = cost,
            .confidence = 0.9F,
            .runner_up = Class::kSlowNic,
            .runner_up_confidence = 0.1F};
  f.evidence.push_back({.text = text("the busiest experts give %.2f times as many bytes as the "
                                     "median; their ranks compute for %.1f %% of a step longer",
                                     ratio, 100 * cost)});
  f.summary = "some experts get far more tokens than others";
  found.push_back(std::move(f));
  return exchanges;
}

// Work that differs from step to step and from replica to replica. Forward and backward of one
// step agree in it; noise does not.
void Imbalance::data(const View& view, std::vector<Finding>& found) const {
  const size_t first = view.steps.size() - std::min(kStepsData, view.steps.size());
  const size_t columns = view.steps.size() - first;
  if (view.busy > kBusyHost) return;  // then nothing that computes takes as long as it needs
  if (view.roles.replicas() < 2 || columns < kStepsDataMin || view.roles.cohorts().empty()) return;
  std::vector<Table> half(2, Table(view.ranks(), columns));
  std::vector<float> some;
  for (size_t i = 0; i < columns; ++i) {
    for (const auto& cohort : view.roles.cohorts()) {
      for (size_t h = 0; h < 2; ++h) {
        some.clear();
        for (const uint32_t r : cohort) {
          const RankStep* cell = view.cell(r, first + i);
          if (cell != nullptr && !cell->special && cell->halves[h] > 0)
            some.push_back(cell->halves[h]);
        }
        const float usual = median(some);
        if (usual <= 0) continue;
        for (const uint32_t r : cohort) {
          const RankStep* cell = view.cell(r, first + i);
          if (cell == nullptr || cell->special || cell->halves[h] <= 0) continue;
          half[h].at(r, i) = std::log(cell->halves[h] / usual);
        }
      }
    }
  }
  std::vector<float> sums, differences;
  Table replica(view.roles.replicas(), columns);
  std::vector<std::vector<float>> of(view.roles.replicas());
  std::vector<float> row, levels(view.ranks(), 0);
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    row.clear();
    for (size_t i = 0; i < columns; ++i) {
      const float s = half[0].at(r, i) + half[1].at(r, i);
      if (!std::isnan(s)) row.push_back(s);
    }
    levels[r] = median(row);  // what lasts is another matter
  }
  for (size_t i = 0; i < columns; ++i) {
    for (auto& values : of) values.clear();
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      const float s = half[0].at(r, i) + half[1].at(r, i) - levels[r];
      if (std::isnan(s)) continue;
      sums.push_back(s), differences.push_back(half[0].at(r, i) - half[1].at(r, i));
      of[view.roles.replica(r)].push_back(s / 2);
    }
    for (size_t d = 0; d < of.size(); ++d) {
      if (!of[d].empty()) replica.at(d, i) = median(of[d]);
    }
  }
  const auto square = [](float x) { return x * x; };
  const float all = square(spread(sums, median(sums))) / 4;
  const float noise = square(spread(differences, median(differences))) / 4;
  const float common = all - noise;
  // A correlation, and how far it may come about by chance.
  const float chance = kSigmas / std::sqrt(static_cast<float>(sums.size()));
  const std::optional<float> tokens = tokens_vary(view, first);
  if (tokens && *tokens < kTokensVary) return;  // all get the same: it is not the data
  const float least = tokens ? std::max(kCommonShare, 0.2F + chance) : kCommonUnknown;
  if (common < square(kVaries) || common < least * all) return;
  std::vector<float> shared, worst, ratio;
  for (size_t i = 0; i < columns; ++i) {
    float most = 0;
    for (size_t d = 0; d < of.size(); ++d) {
      if (std::isnan(replica.at(d, i))) continue;
      shared.push_back(replica.at(d, i));
      most = std::max(most, replica.at(d, i));
    }
    worst.push_back(most);
  }
  if (square(spread(shared, median(shared))) < 0.5F * common) return;  // ranks, not replicas
  float compute = 0;
  some.clear();
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    if (const RankStep* cell = view.cell(r, first + columns - 1))
      some.push_back(cell->part[kCompute]);
  }
  compute = median(some) / view.step_ns;
  std::vector<float> newest(worst.end() - 4, worst.end());
  const float cost = (std::exp(median(newest)) - 1) * compute;
  if (cost < view.slow_share()) return;
  Finding f{.cls = Class::kImbalanceData,
            .first_step = view.steps[first + since(worst)],
            .last_step = view.newest(),
            .hold_steps = 3,
            .cost = std::min(cost, 1.0F),
            .confidence = std::min(0.95F, 0.5F + 0.5F * common / all),
            .runner_up = Class::kHostPause,
            .runner_up_confidence = 0.1F};
  f.evidence.push_back({.text = text("the work of a step varies by ±%.0f %% between replicas, in "
                                     "forward and backward alike; the busiest one changes",
                                     100 * std::sqrt(common))});
  f.summary = "replicas get different amounts of work, another one the most in each step";
  found.push_back(std::move(f));
}

std::vector<Finding> Imbalance::find(const View& view) {
  std::vector<Finding> found;
  stages(view, found);
  const size_t before = found.size();
  const bool exchanges = experts(view, found);
  if (found.size() == before) data(view, found);
  // Sizes that change nothing hide busy experts.
  if (exchanges && found.size() > before && found.back().cls == Class::kImbalanceData) {
    found.back().runner_up = Class::kImbalanceExpert;
    found.back().runner_up_confidence = 0.3F;
  }
  return found;
}

}  // namespace convoy::trace::slow
