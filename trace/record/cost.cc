// The tracer times itself.
#include "trace/record/cost.h"

#include <convoy/trace/recorder.h>

#include <mutex>
#include <vector>

namespace convoy::trace {
namespace {

constinit std::atomic<uint64_t> records_timed{0}, record_ticks{0};

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
  records_timed.fetch_add(1, std::memory_order_relaxed);
  record_ticks.fetch_add(ticks, std::memory_order_relaxed);
}

}  // namespace detail

CallMeter::CallMeter() {
  Meters& m = meters();
  const std::lock_guard lock(m.mutex);
  m.all.push_back(this);
}

void CallMeter::add(uint64_t ticks) {
  if (ticks > detail::kTicksMax) return;
  timed_.fetch_add(1, std::memory_order_relaxed);
  ticks_.fetch_add(ticks, std::memory_order_relaxed);
}

double CallMeter::mean_ticks() const {
  const uint64_t timed = timed_.load(std::memory_order_relaxed);
  if (timed == 0) return 0;
  return static_cast<double>(ticks_.load(std::memory_order_relaxed)) / static_cast<double>(timed);
}

double cost_ticks(Segment& segment) {
  uint64_t records = 0;
  for (uint32_t i = 0; i < segment.rings(); ++i) {
    records += layout::ring_of(segment.header(), i).head.load(std::memory_order_relaxed);
  }
  const uint64_t timed = records_timed.load(std::memory_order_relaxed);
  double ticks = timed == 0 ? 0
                            : static_cast<double>(record_ticks.load(std::memory_order_relaxed)) /
                                  static_cast<double>(timed) * static_cast<double>(records);
  Meters& m = meters();
  const std::lock_guard lock(m.mutex);
  for (const CallMeter* meter : m.all) {
    ticks += meter->mean_ticks() * static_cast<double>(meter->calls());
  }
  return ticks;
}

}  // namespace convoy::trace
