// Hands an exporter what was selected, with times on the root's clock.
#include <convoy/trace/export.h>

#include <algorithm>

namespace convoy::trace {
namespace {

using Window = std::pair<int64_t, int64_t>;

// Something of it lies within; ends that only touch don't count.
bool overlaps(int64_t begin, int64_t end, Window window) {
  if (begin == end) return window.first <= begin && begin <= window.second;
  return begin < window.second && end > window.first;
}

}  // namespace

Aligner::Aligner(const Survey& survey, Exporter& to, std::function<void(uint64_t)> progress)
    : survey_(survey), to_(to), progress_(std::move(progress)), windows_(survey.windows()) {}

bool Aligner::move(Operation& operation, uint32_t rank, Window window) const {
  const ClockModel& clocks = survey_.clocks();
  operation.issued = clocks.root_time(rank, operation.issued);
  operation.started = clocks.root_time(rank, operation.started);
  operation.completed = clocks.root_time(rank, operation.completed);
  const int64_t begin = operation.started != 0 ? operation.started : operation.issued;
  return overlaps(begin, operation.completed != 0 ? operation.completed : INT64_MAX, window);
}

bool Aligner::move(SpanEvent& span, uint32_t rank, Window window) const {
  span.begin = survey_.clocks().root_time(rank, span.begin);
  span.end = survey_.clocks().root_time(rank, span.end);
  return overlaps(span.begin, span.end != 0 ? span.end : INT64_MAX, window);
}

void Aligner::batch(const Batch& batch) {
  if (++batches_ % 64 == 0 && progress_) progress_(batches_);
  if (batch.rank >= windows_.size()) return;
  const Window window = windows_[batch.rank];
  if (window.first > window.second) return;
  moved_.rank = batch.rank;
  moved_.generation = batch.generation;
  moved_.number = batch.number;
  moved_.received = batch.received;
  moved_.operations.clear();
  moved_.spans.clear();
  moved_.counters.clear();
  for (Operation o : batch.operations) {
    if (move(o, batch.rank, window)) moved_.operations.push_back(o);
  }
  for (SpanEvent s : batch.spans) {
    if (move(s, batch.rank, window)) moved_.spans.push_back(s);
  }
  for (CounterEvent c : batch.counters) {
    c.time = survey_.clocks().root_time(batch.rank, c.time);
    if (overlaps(c.time, c.time, window)) moved_.counters.push_back(c);
  }
  to_.batch(moved_);
}

void Aligner::finish() {
  for (uint32_t r = 0; r < survey_.ranks().size(); ++r) {
    if (!survey_.ranks()[r].state) continue;
    const Window window = windows_[r];
    if (window.first > window.second) continue;
    RankState state = *survey_.ranks()[r].state;
    state.time = survey_.clocks().root_time(r, state.time);
    std::erase_if(state.pending, [&](Operation& o) { return !move(o, r, window); });
    std::erase_if(state.open, [&](SpanEvent& s) { return !move(s, r, window); });
    if (!state.pending.empty() || !state.open.empty()) to_.unfinished(r, state);
  }
}

}  // namespace convoy::trace
