// Decides when each action of a schedule runs at given costs. Assumes nothing about the builder:
// any schedule that validate() accepts can be timed.
#include <convoy/parallel/schedule/simulate.h>
#include <convoy/parallel/schedule/validate.h>

#include <algorithm>
#include <string>

namespace convoy::schedule {
namespace {

constexpr double kNotYet = -1;

Status check_costs(const Schedule& schedule, const Costs& costs) {
  bool good = costs.forward > 0 && costs.backward > 0 && costs.comm >= 0;
  for (const double scale : costs.stage_scale) good = good && scale > 0;
  if (!good) {
    return Status(Code::kInvalidArgument,
                  "costs of a pipeline simulation must be positive (communication may be 0).");
  }
  const size_t count = costs.stage_scale.size();
  if (count != 0 && count != static_cast<size_t>(schedule.stages())) {
    return Status(Code::kInvalidArgument, "stage_scale has " + std::to_string(count) +
                                              " entries, but schedule " + schedule.name + " has " +
                                              std::to_string(schedule.stages()) + " stages.");
  }
  return ok_status();
}

class Simulation {
 public:
  Simulation(const Schedule& schedule, const Costs& costs)
      : schedule_(schedule),
        costs_(costs),
        end_(size_t{2} * schedule.stages() * schedule.microbatches, kNotYet),
        next_(schedule.ranks, 0) {
    timeline_.ranks.resize(schedule.ranks);
  }

  Timeline run() {
    for (bool moved = true; moved;) {
      moved = false;
      for (int rank = 0; rank < schedule_.ranks; ++rank) {
        while (advance(rank)) moved = true;
      }
    }
    double busy = 0;
    for (int rank = 0; rank < schedule_.ranks; ++rank) {
      CONVOY_CHECK(next_[rank] == schedule_.steps[rank].size(), "a valid schedule gets stuck");
      for (const Span& span : timeline_.ranks[rank]) {
        busy += span.end - span.start;
        timeline_.makespan = std::max(timeline_.makespan, span.end);
      }
    }
    timeline_.bubble_fraction = 1 - busy / (schedule_.ranks * timeline_.makespan);
    return std::move(timeline_);
  }

 private:
  double& end_of(Kind kind, int stage, int microbatch) {
    const size_t half = kind == Kind::kForward ? 0 : 1;
    return end_[(half * schedule_.stages() + stage) * schedule_.microbatches + microbatch];
  }

  // When the input from the neighbouring stage is here; kNotYet if it is not computed.
  double input_at(int rank, const Action& action) {
    const int stage = schedule_.stage_of(rank, action.chunk);
    const int from = action.kind == Kind::kForward ? stage - 1 : stage + 1;
    if (from < 0 || from == schedule_.stages()) return 0;
    const double end = end_of(action.kind, from, action.microbatch);
    if (end == kNotYet) return kNotYet;
    return schedule_.rank_of(from) == rank ? end : end + costs_.comm;
  }

  double duration(int stage, Kind kind) const {
    const double scale = costs_.stage_scale.empty() ? 1 : costs_.stage_scale[stage];
    const double whole = kind == Kind::kForward ? costs_.forward : costs_.backward;
    return whole * scale / schedule_.chunks;
  }

  bool advance(int rank) {
    if (next_[rank] == schedule_.steps[rank].size()) return false;
    const Action& action = schedule_.steps[rank][next_[rank]].front();
    if (is_compute(action.kind)) {
      const double ready = input_at(rank, action);
      if (ready == kNotYet) return false;
      auto& spans = timeline_.ranks[rank];
      const int stage = schedule_.stage_of(rank, action.chunk);
      const double start = std::max(ready, spans.empty() ? 0 : spans.back().end);
      const double end = start + duration(stage, action.kind);
      spans.push_back({action, start, end});
      end_of(action.kind, stage, action.microbatch) = end;
    }
    ++next_[rank];
    return true;
  }

  const Schedule& schedule_;
  const Costs& costs_;
  std::vector<double> end_;   // by kind, stage, micro-batch
  std::vector<size_t> next_;  // [ranks]
  Timeline timeline_;
};

}  // namespace

Result<Timeline> simulate(const Schedule& schedule, const Costs& costs) {
  CONVOY_RETURN_IF_ERROR(validate(schedule));
  CONVOY_RETURN_IF_ERROR(check_costs(schedule, costs));
  return Simulation(schedule, costs).run();
}

}  // namespace convoy::schedule
