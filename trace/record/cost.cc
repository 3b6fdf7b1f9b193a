// The tracer times itself.
#include "trace/record/cost.h"

#include <convoy/trace/recorder.h>

#include <mutex>
#include <utility>
#include <vector>

namespace convoy::trace {
namespace {

// The newest weigh most: a program's calls change. Times of several threads may be lost.
constexpr uint64_t kTimesKept = 64;

struct Times {
  std::atomic<uint64_t> count{0}, ticks{0};
};
constinit Times of_records;

void add(std::atomic<uint64_t>& count, std::atomic<uint64_t>& sum, uint64_t ticks) {
  const uint64_t n = count.load(std::memory_order_relaxed) + 1;
  const uint64_t all = sum.load(std::memory_order_relaxed) + ticks;
  const int shift = n >= kTimesKept ? 1 : 0;
  count.store(n >> shift, std::memory_order_relaxed);
  sum.store(all >> shift, std::memory_order_relaxed);
}

double mean(const std::atomic<uint64_t>& count, const std::atomic<uint64_t>& sum) {
  const uint64_t n = count.load(std::memory_order_relaxed);
  return n == 0 ? 0
                : static_cast<double>(sum.load(std::memory_order_relaxed)) / static_cast<double>(n);
}

struct Meters {
  std::mutex mutex;
  std::vector<const CallMeter*> all;
};

Meters& meters() {
  static auto* const the = new Meters;
  return *the;
}

}  // namespace

namespace detail {

// A thread that is taken off its core in between says nothing of the cost.
constexpr uint64_t kTicksMax = 30000;

void add_timed_record(uint64_t ticks) {
  if (ticks > kTicksMax) return;
  add(of_records.count, of_records.ticks, ticks);
}

}  // namespace detail

CallMeter::CallMeter() {
  Meters& m = meters();
  const std::lock_guard lock(m.mutex);
  m.all.push_back(this);
}

void CallMeter::add(uint64_t ticks) {
  if (ticks <= detail::kTicksMax) trace::add(timed_, ticks_, ticks);
}

double CallMeter::mean_ticks() const {
  return mean(timed_, ticks_);
}

double CostSince::take(Segment& segment) {
  uint64_t records = 0;
  for (uint32_t i = 0; i < segment.rings(); ++i) {
    records += layout::ring_of(segment.header(), i).head.load(std::memory_order_relaxed);
  }
  double ticks = mean(of_records.count, of_records.ticks) *
                 static_cast<double>(records - std::exchange(records_, records));
  Meters& m = meters();
  const std::lock_guard lock(m.mutex);
  calls_.resize(m.all.size());
  for (size_t i = 0; i < m.all.size(); ++i) {
    const uint64_t calls = m.all[i]->calls();
    ticks += m.all[i]->mean_ticks() * static_cast<double>(calls - std::exchange(calls_[i], calls));
  }
  return ticks;
}

}  // namespace convoy::trace
