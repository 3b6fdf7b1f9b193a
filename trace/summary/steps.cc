#include "trace/summary/steps.h"

#include <algorithm>
#include <cstddef>

namespace convoy::trace {
namespace {

constexpr size_t kRankPastMax = 64;
constexpr size_t kOpenMax = 64;  // steps that ranks may be apart
constexpr size_t kJobPastMax = 1024;

}  // namespace

void RankSteps::add(const RankStep& step, uint32_t window) {
  window_.push_back(step);
  if (window_.size() > window) window_.pop_front();
  if (past_.empty() || in_last_ == stride_) {
    if (past_.size() == kRankPastMax) {
      for (size_t i = 0; i < kRankPastMax / 2; ++i) {
        past_[i] = {past_[2 * i].step, (past_[2 * i].mean + past_[2 * i + 1].mean) / 2};
      }
      past_.resize(kRankPastMax / 2);
      stride_ *= 2;
    }
    past_.push_back({step.step, 0});
    in_last_ = 0;
  }
  ++in_last_;
  past_.back().mean += (step.total - past_.back().mean) / static_cast<float>(in_last_);
}

float RankSteps::median() const {
  if (window_.empty()) return 0;
  std::vector<float> totals;
  totals.reserve(window_.size());
  for (const RankStep& s : window_) totals.push_back(s.total);
  const auto middle = totals.begin() + static_cast<ptrdiff_t>(totals.size() / 2);
  std::ranges::nth_element(totals, middle);
  return *middle;
}

Parts RankSteps::mean_parts() const {
  Parts mean{};
  for (const RankStep& s : window_) {
    for (size_t i = 0; i < kParts; ++i) mean[i] += s.parts[i];
  }
  for (float& part : mean) part /= static_cast<float>(std::max<size_t>(1, window_.size()));
  return mean;
}

float RankSteps::mean_late() const {
  float sum = 0;
  for (const RankStep& s : window_) sum += s.late;
  return sum / static_cast<float>(std::max<size_t>(1, window_.size()));
}

void JobSteps::add(uint32_t rank, const RankStep& step) {
  if (step.step <= closed_ && closed_ != 0) return;  // too late
  Open& open = open_[step.step];
  JobStep& sum = open.sum;
  const int64_t end = step.begin + static_cast<int64_t>(step.total * 1e3F);
  if (sum.ranks == 0) sum.begin = step.begin;
  sum.step = step.step;
  sum.begin = std::min(sum.begin, step.begin);
  sum.end = std::max(sum.end, end);
  ++sum.ranks;
  if (step.total > sum.longest) {
    sum.longest = step.total;
    sum.slowest = rank;
  }
  for (size_t i = 0; i < kParts; ++i) sum.parts[i] += step.parts[i];
  open.totals.push_back(step.total);
  while (open_.size() > kOpenMax) {
    closed_ = open_.begin()->first;
    keep(close(open_.begin()->second));
    open_.erase(open_.begin());
  }
}

JobStep JobSteps::close(const Open& open) {
  JobStep step = open.sum;
  std::vector<float> totals = open.totals;
  const auto middle = totals.begin() + static_cast<ptrdiff_t>(totals.size() / 2);
  std::ranges::nth_element(totals, middle);
  step.median = *middle;
  step.shortest = *std::ranges::min_element(totals);
  for (float& part : step.parts) part /= static_cast<float>(step.ranks);
  return step;
}

void JobSteps::keep(const JobStep& step) {
  if (!past_.empty() && skipped_ + 1 < stride_) {
    // Of steps that find no room the longest is what one wants to see.
    if (step.median > past_.back().median) past_.back() = step;
    ++skipped_;
    return;
  }
  if (past_.size() == kJobPastMax) {
    for (size_t i = 0; i < kJobPastMax / 2; ++i) {
      past_[i] = past_[2 * i].median >= past_[2 * i + 1].median ? past_[2 * i] : past_[2 * i + 1];
    }
    past_.resize(kJobPastMax / 2);
    stride_ *= 2;
  }
  past_.push_back(step);
  skipped_ = 0;
}

std::vector<JobStep> JobSteps::all() const {
  std::vector<JobStep> steps = past_;
  for (const auto& [number, open] : open_) steps.push_back(close(open));
  return steps;
}

}  // namespace convoy::trace
