// The system clock, the manual clock of tests, and deadlines.
#include <convoy/base/clock.h>

#include <algorithm>
#include <thread>

namespace convoy {
namespace {

class SystemClock final : public Clock {
 public:
  TimePoint now() const override {
    return std::chrono::time_point_cast<Nanos>(std::chrono::steady_clock::now());
  }
  void sleep_for(Nanos duration) override { std::this_thread::sleep_for(duration); }
};

}  // namespace

Clock& Clock::system() {
  static SystemClock clock;
  return clock;
}

TimePoint ManualClock::now() const {
  return TimePoint(Nanos(now_ns_.load(std::memory_order_acquire)));
}

void ManualClock::advance(Nanos duration) {
  now_ns_.fetch_add(duration.count(), std::memory_order_acq_rel);
}

Nanos Deadline::left(const Clock& clock) const {
  if (at_ == TimePoint::max()) return Nanos::max();
  return std::max(Nanos(0), at_ - clock.now());
}

}  // namespace convoy
