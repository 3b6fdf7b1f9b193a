#pragma once

#include <atomic>
#include <chrono>
#include <cstdint>

namespace convoy {

using Nanos = std::chrono::nanoseconds;
// A point on the monotonic clock. Never compare points of two hosts.
using TimePoint = std::chrono::time_point<std::chrono::steady_clock, Nanos>;

// Where time comes from. Code that waits or measures takes a Clock, so that tests (and later the
// simulated cluster) can hold time in their hands. Thread-safe.
class Clock {
 public:
  virtual ~Clock() = default;
  virtual TimePoint now() const = 0;
  // Blocks the calling thread for `duration` of this clock's time.
  virtual void sleep_for(Nanos duration) = 0;

  // The machine's monotonic clock; lives as long as the process.
  static Clock& system();
};

// A clock that moves only when told; sleep_for moves it. For tests. Thread-safe.
class ManualClock final : public Clock {
 public:
  TimePoint now() const override;
  void sleep_for(Nanos duration) override { advance(duration); }
  void advance(Nanos duration);

 private:
  std::atomic<int64_t> now_ns_{0};
};

// A moment by which something must have happened.
class Deadline {
 public:
  static Deadline after(Nanos duration, const Clock& clock = Clock::system()) {
    return Deadline(clock.now() + duration);
  }
  static Deadline never() { return Deadline(TimePoint::max()); }
  explicit Deadline(TimePoint at) : at_(at) {}

  TimePoint at() const { return at_; }
  bool passed(const Clock& clock = Clock::system()) const { return clock.now() >= at_; }
  // Time left, never negative; Nanos::max() for never().
  Nanos left(const Clock& clock = Clock::system()) const;

 private:
  TimePoint at_;
};

}  // namespace convoy
