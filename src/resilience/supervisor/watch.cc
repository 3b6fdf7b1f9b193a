#include "src/resilience/supervisor/watch.h"

#include <algorithm>

namespace convoy::resilience {
namespace {

// Vitals that are older say nothing: whoever reads them is held up, too.
constexpr Nanos kFresh = std::chrono::seconds(2);

}  // namespace

void HangWatch::begin() {
  ranks_.clear();
  step_ = -1;
  is_first_ = true;
  told_ = false;
}

void HangWatch::take(TimePoint now, const std::map<int, RankVitals>& ranks) {
  // Who reads them was halted, or the machine was: nobody has hung in that time.
  if (seen_ != TimePoint{} && now - seen_ > kFresh) at_ = now;
  seen_ = now;
  ranks_ = ranks;
  int64_t newest = -1;
  for (const auto& [rank, v] : ranks_) newest = std::max(newest, v.step);
  if (newest == step_) return;
  if (newest > step_) {
    // What ranks say of themselves, and what was seen from outside, which knows of pauses, too.
    Nanos took{};
    for (const auto& [rank, v] : ranks_) took = std::max(took, v.took);
    if (step_ >= 0 && !is_first_) took = std::max(took, Nanos((now - at_) / (newest - step_)));
    if (took > Nanos(0)) steps_.add(took);
  }
  is_first_ = step_ < 0;
  step_ = newest;
  at_ = now;
}

Nanos HangWatch::median_step() const {
  if (steps_.empty()) return Nanos(0);
  std::vector<Nanos> sorted(steps_.times().begin(), steps_.times().end());
  const auto middle = sorted.begin() + static_cast<std::ptrdiff_t>(sorted.size() / 2);
  std::nth_element(sorted.begin(), middle, sorted.end());
  return *middle;
}

std::optional<Nanos> HangWatch::limit() const {
  if (steps_.empty()) return std::nullopt;
  return Recent::limit(longest_step());
}

// Who is halted; else who is a step behind, or computes while the others wait.
std::vector<int> HangWatch::culprits() const {
  std::vector<int> halted, behind;
  int64_t least = INT64_MAX;
  for (const auto& [rank, v] : ranks_) least = std::min(least, v.step);
  for (const auto& [rank, v] : ranks_) {
    if (v.halted) halted.push_back(rank);
    if (v.step == least && !v.waiting) behind.push_back(rank);
  }
  return halted.empty() ? behind : halted;
}

std::optional<HangWatch::Hang> HangWatch::look(TimePoint now) {
  const std::optional<Nanos> limit = this->limit();
  if (!limit || told_ || ranks_.empty() || now - seen_ > kFresh) return std::nullopt;
  const bool training =
      std::all_of(ranks_.begin(), ranks_.end(), [](const auto& r) { return r.second.training; });
  const bool saving = std::any_of(ranks_.begin(), ranks_.end(), [](const auto& r) {
    return r.second.saving && !r.second.halted;
  });
  if (!training || saving) {
    at_ = now;
    return std::nullopt;
  }
  if (now - at_ < *limit) return std::nullopt;
  told_ = true;
  return Hang{culprits(), now - at_, *limit};
}

}  // namespace convoy::resilience
