#include "trace/collect/outbox.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace convoy::trace {
namespace {

constexpr size_t kMergeMax = 64 << 10;  // bytes of a batch that others are added to

size_t bytes_of(const RankState& state) {
  return state.progress.size() * sizeof(GroupProgress) + state.pending.size() * sizeof(Operation) +
         state.open.size() * sizeof(SpanEvent);
}

size_t bytes_of(const Batch& batch) {
  return sizeof(Batch) + batch.operations.size() * sizeof(Operation) +
         batch.spans.size() * sizeof(SpanEvent) + batch.counters.size() * sizeof(CounterEvent) +
         (batch.state ? bytes_of(*batch.state) : 0);
}

template <class T>
void append(std::vector<T>& to, const std::vector<T>& from) {
  to.insert(to.end(), from.begin(), from.end());
}

// Of sums since the beginning the last one says all.
size_t keep_last_counters(std::vector<CounterEvent>& counters) {
  const size_t before = counters.size();
  std::vector<CounterEvent> kept;
  for (auto c = counters.rbegin(); c != counters.rend(); ++c) {
    const auto same = [&](const CounterEvent& k) { return k.name == c->name && k.peer == c->peer; };
    if (std::ranges::none_of(kept, same)) kept.push_back(*c);
  }
  std::ranges::reverse(kept);
  counters = std::move(kept);
  return before - counters.size();
}

constexpr std::string_view kSpanNames[] = {
    names::kStep,       names::kData,       names::kForward,         names::kBackward,
    names::kOptimizer,  names::kAwaitStage, names::kReduceGradients, names::kEvaluate,
    names::kCheckpoint, names::kGarbage,    names::kLaunch,          names::kWarmUp};

}  // namespace

Outbox::Outbox(const Registry& registry, size_t bytes_max)
    : registry_(registry), bytes_max_(bytes_max) {}

void Outbox::count(const Batch& batch, bool in) {
  in ? bytes_ += bytes_of(batch) : bytes_ -= bytes_of(batch);
}

void Outbox::push(Batch batch) {
  batch.number = 0;
  put(std::move(batch), 0);
  if (bytes_ > bytes_max_) make_room();
}

// Into the rank's newest, if that has not left. One rank's batches of two generations stay apart.
bool Outbox::merge(Batch& batch) {
  const auto newest = newest_.find(batch.rank);
  if (newest == newest_.end() || newest->second < popped_ + sent_) return false;
  Batch& to = entries_[newest->second - popped_].batch;
  if (to.number != 0 || to.generation != batch.generation ||
      bytes_of(to) + bytes_of(batch) > kMergeMax) {
    return false;
  }
  count(to, false);
  append(to.operations, batch.operations);
  append(to.spans, batch.spans);
  append(to.counters, batch.counters);
  if (batch.state) to.state = std::move(batch.state);
  if (!batch.host.empty()) to.host = std::move(batch.host);
  if (batch.pid != 0) to.pid = batch.pid;
  count(to, true);
  return true;
}

void Outbox::put(Batch batch, uint64_t message) {
  if (merge(batch)) return;
  count(batch, true);
  newest_[batch.rank] = popped_ + entries_.size();
  entries_.push_back({std::move(batch), message});
}

// The oldest lose theirs first. Down to 7/8, so that not each further batch walks the whole queue.
void Outbox::make_room() {
  const size_t wanted = bytes_max_ / 8 * 7;
  for (const Shed level : {Shed::kDetails, Shed::kSpans, Shed::kOperations}) {
    for (size_t i = sent_; i < entries_.size(); ++i) {
      if (bytes_ <= wanted) return;
      Entry& entry = entries_[i];
      count(entry.batch, false);
      drop(entry.batch, level);
      count(entry.batch, true);
    }
    merge_all();
  }
}

// What is small now becomes one batch of each rank.
void Outbox::merge_all() {
  std::deque<Entry> waiting;
  while (entries_.size() > sent_) {
    waiting.push_front(std::move(entries_.back()));
    entries_.pop_back();
  }
  newest_.clear();
  for (Entry& entry : waiting) {
    count(entry.batch, false);
    put(std::move(entry.batch), entry.message);
  }
}

void Outbox::drop(Batch& batch, Shed level) {
  uint64_t events = 0;
  if (level == Shed::kDetails) {
    events = std::erase_if(batch.spans, [&](const SpanEvent& s) { return is_detail(s); });
    events += keep_last_counters(batch.counters);
  } else if (level == Shed::kSpans) {
    events = std::exchange(batch.spans, {}).size();
  } else {
    events = std::exchange(batch.operations, {}).size();
    events += std::exchange(batch.counters, {}).size();
  }
  batch.spans.shrink_to_fit();
  shed_[static_cast<size_t>(level)] += events;
  shed_of_[batch.rank] += events;
}

bool Outbox::is_detail(const SpanEvent& span) const {
  return span.name >= registry_.names().size() ||
         std::ranges::find(kSpanNames, registry_.names()[span.name]) == std::end(kSpanNames);
}

Batch& Outbox::next(uint64_t message) {
  Entry& entry = entries_[sent_++];
  entry.message = message;
  Batch& batch = entry.batch;
  if (batch.number == 0) batch.number = ++numbers_[batch.rank];
  if (batch.state) batch.state->shed = std::max(batch.state->shed, shed_of_[batch.rank]);
  return batch;
}

void Outbox::acknowledge(uint64_t message) {
  while (sent_ > 0 && entries_.front().message <= message) {
    count(entries_.front().batch, false);
    entries_.pop_front();
    ++popped_;
    --sent_;
  }
}

void Outbox::give_up(uint64_t message) {
  for (Entry& entry : entries_) {
    if (entry.message == 0 || entry.message > message) continue;
    count(entry.batch, false);
    for (const Shed level : {Shed::kDetails, Shed::kSpans, Shed::kOperations}) {
      drop(entry.batch, level);
    }
    count(entry.batch, true);
  }
}

}  // namespace convoy::trace
