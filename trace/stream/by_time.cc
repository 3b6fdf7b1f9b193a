#include "trace/stream/by_time.h"

#include <algorithm>
#include <limits>
#include <tuple>
#include <utility>

namespace convoy::trace {
namespace {

constexpr int64_t kSecond = 1'000'000'000;
// So late may a batch of a running job be, and so much may it hold after a broken connection.
constexpr int64_t kLate = 60 * kSecond, kHeld = 60 * kSecond;

// From the first of its events' ends to the last.
int64_t extent(const Batch& batch) {
  int64_t first = std::numeric_limits<int64_t>::max(), last = std::numeric_limits<int64_t>::min();
  const auto take = [&](int64_t time) {
    if (time != 0) first = std::min(first, time), last = std::max(last, time);
  };
  for (const Operation& o : batch.operations) take(o.completed);
  for (const SpanEvent& s : batch.spans) take(s.end);
  for (const CounterEvent& c : batch.counters) take(c.time);
  return last < first ? 0 : last - first;
}

}  // namespace

bool OrderCheck::is_next(const Batch& batch) {
  if (batch.received <= 0 || batch.received < newest_ - kLate || extent(batch) > kHeld) {
    return false;
  }
  newest_ = std::max(newest_, batch.received);
  return true;
}

void ByTime::job(const JobInfo& job) {
  jobs_[job.generation] = job;
}

void ByTime::batch(const Batch& batch) {
  whole_.push_back(batch);
}

Batch& ByTime::slice(const Batch& whole, int64_t time) {
  const auto offset = offsets_.find(ranks_[whole.rank].host);
  const int64_t root = time + (offset == offsets_.end() ? 0 : offset->second);
  const int64_t second = root / kSecond;
  const auto [at, is_new] = slices_.try_emplace(Key{whole.generation, second, whole.rank});
  if (is_new) {
    at->second.rank = whole.rank;
    at->second.generation = whole.generation;
    at->second.received = (second + 1) * kSecond;
  }
  return at->second;
}

void ByTime::give(Sink& to) {
  for (const ClockSample& c : clocks_) {
    offsets_.try_emplace(c.host, c.root_time - c.host_time);
  }
  std::stable_sort(whole_.begin(), whole_.end(), [](const Batch& a, const Batch& b) {
    return std::tie(a.generation, a.rank, a.number) < std::tie(b.generation, b.rank, b.number);
  });
  std::stable_sort(clocks_.begin(), clocks_.end(), [](const ClockSample& a, const ClockSample& b) {
    return a.root_time < b.root_time;
  });
  for (const Batch& whole : std::exchange(whole_, {})) {
    Rank& rank = ranks_[whole.rank];
    if (!whole.host.empty()) rank.host = whole.host;
    Batch* first = nullptr;
    const auto put = [&](int64_t time) -> Batch& {
      Batch& into = slice(whole, time);
      if (first == nullptr || into.received < first->received) first = &into;
      return into;
    };
    for (const Operation& o : whole.operations) {
      put(o.completed != 0 ? o.completed : o.issued).operations.push_back(o);
    }
    for (const SpanEvent& s : whole.spans) put(s.end != 0 ? s.end : s.begin).spans.push_back(s);
    for (const CounterEvent& c : whole.counters) put(c.time).counters.push_back(c);
    if (whole.state) put(whole.state->time).state = whole.state;
    if (first == nullptr) continue;
    if (!whole.host.empty()) first->host = whole.host, first->pid = whole.pid;
    if (rank.last != 0 && whole.number > rank.last + 1)
      first->number += whole.number - rank.last - 1;
    rank.last = whole.number;
  }
  // By time first, from here on.
  std::vector<Batch> slices;
  for (auto& [key, batch] : std::exchange(slices_, {})) slices.push_back(std::move(batch));
  uint64_t generation = std::numeric_limits<uint64_t>::max();
  size_t clock = 0;
  std::map<uint32_t, uint64_t> numbers;
  for (Batch& b : slices) {
    if (b.generation != generation) {
      generation = b.generation;
      const auto job = jobs_.find(generation);
      if (job != jobs_.end()) to.job(job->second);
      numbers.clear();
    }
    for (; clock < clocks_.size() && clocks_[clock].root_time <= b.received; ++clock) {
      to.clock(clocks_[clock]);
    }
    b.number = numbers[b.rank] += b.number + 1;  // what it had: the gap before it
    to.batch(b);
  }
}

}  // namespace convoy::trace
