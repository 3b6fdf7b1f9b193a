// A sweep over the begins and ends of all that happens in a step: at each moment one of the things
// that go on there gets the time.
#include "trace/summary/phases.h"

#include <algorithm>

namespace convoy::trace {

const std::array<const char*, kPhases> kPhaseNames = {
    "compute", "data", "pipeline wait", "optimizer", "checkpoint", "evaluate", "pause", "other"};

namespace {

struct Edge {
  int64_t time;
  uint32_t interval;
  bool begins;
};

float micros(int64_t ns) {
  return static_cast<float>(static_cast<double>(ns) * 1e-3);
}

size_t part_of(Phase phase) {
  return static_cast<size_t>(phase);
}

// What goes on at a moment.
class Moment {
 public:
  explicit Moment(const std::vector<Interval>& intervals, bool kernels_known)
      : intervals_(intervals), kernels_known_(kernels_known) {}

  void pass(const Edge& edge) {
    const Interval& i = intervals_[edge.interval];
    const int change = edge.begins ? 1 : -1;
    switch (i.stretch) {
      case Stretch::kKernel:
        kernels_ += change;
        return;
      case Stretch::kMessage:
        messages_ += change;
        return;
      case Stretch::kCollective:
        collectives_[i.kind] += change;
        if (i.blocking) blocking_[i.kind] += change;
        return;
      default:
        break;
    }
    if (edge.begins) {
      open_.push_back(edge.interval);
    } else {
      std::erase(open_, edge.interval);
    }
  }

  size_t part() const {
    if (kernels_ > 0) return part_of(Phase::kCompute);
    const Stretch* const innermost = open_.empty() ? nullptr : &intervals_[open_.back()].stretch;
    if (innermost != nullptr) {
      switch (*innermost) {
        case Stretch::kAwait:
          return part_of(Phase::kPipeline);
        case Stretch::kData:
          return part_of(Phase::kData);
        case Stretch::kCheckpoint:
          return part_of(Phase::kCheckpoint);
        case Stretch::kPause:
          return part_of(Phase::kPause);
        default:
          break;
      }
    }
    const bool computes = innermost != nullptr && *innermost == Stretch::kForward;
    const auto& running = computes && !kernels_known_ ? blocking_ : collectives_;
    for (size_t kind = 0; kind < kKinds; ++kind) {
      if (running[kind] > 0) return kPhases + kind;
    }
    if (messages_ > 0 && (!computes || kernels_known_)) return part_of(Phase::kPipeline);
    if (innermost == nullptr) return part_of(Phase::kOther);
    if (*innermost == Stretch::kOptimizer) return part_of(Phase::kOptimizer);
    if (*innermost == Stretch::kEvaluate) return part_of(Phase::kEvaluate);
    return part_of(computes && !kernels_known_ ? Phase::kCompute : Phase::kOther);
  }

 private:
  const std::vector<Interval>& intervals_;
  bool kernels_known_;
  int kernels_ = 0, messages_ = 0;
  std::array<int, kKinds> collectives_{}, blocking_{};
  std::vector<uint32_t> open_;
};

}  // namespace

Parts split(int64_t begin, int64_t end, const std::vector<Interval>& intervals) {
  std::vector<Edge> edges;
  bool kernels_known = false;
  for (uint32_t n = 0; n < intervals.size(); ++n) {
    const Interval& i = intervals[n];
    if (i.end <= begin || i.begin >= end || i.end <= i.begin) continue;
    kernels_known = kernels_known || i.stretch == Stretch::kKernel;
    edges.push_back({std::max(i.begin, begin), n, true});
    edges.push_back({std::min(i.end, end), n, false});
  }
  // Ends first: what follows at once is not within. Of equal begins the outer one is first.
  std::ranges::sort(edges, [&](const Edge& a, const Edge& b) {
    if (a.time != b.time) return a.time < b.time;
    if (a.begins != b.begins) return !a.begins;
    if (!a.begins) return a.interval < b.interval;
    const Interval &x = intervals[a.interval], &y = intervals[b.interval];
    if (x.begin != y.begin) return x.begin < y.begin;
    return x.end != y.end ? x.end > y.end : a.interval < b.interval;
  });
  Parts parts{};
  Moment moment(intervals, kernels_known);
  int64_t at = begin;
  for (const Edge& edge : edges) {
    if (edge.time > at) {
      parts[moment.part()] += micros(edge.time - at);
      at = edge.time;
    }
    moment.pass(edge);
  }
  if (end > at) parts[moment.part()] += micros(end - at);
  return parts;
}

}  // namespace convoy::trace
