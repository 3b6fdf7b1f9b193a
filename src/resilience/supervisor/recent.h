#pragma once

#include <convoy/base/clock.h>

#include <algorithm>
#include <deque>

namespace convoy::resilience {

// How long something took the last 64 times, and how long it may take: deadlines come from the
// job's own history. Pure.
class Recent {
 public:
  void add(Nanos took) {
    times_.push_back(took);
    if (times_.size() > kKept) times_.pop_front();
  }
  bool empty() const { return times_.empty(); }
  Nanos longest() const {
    return times_.empty() ? Nanos(0) : *std::max_element(times_.begin(), times_.end());
  }
  // The oldest first.
  const std::deque<Nanos>& times() const { return times_; }

  // 4 × the longest, and 2 s.
  static Nanos limit(Nanos longest) { return 4 * longest + std::chrono::seconds(2); }

 private:
  static constexpr size_t kKept = 64;

  std::deque<Nanos> times_;
};

}  // namespace convoy::resilience
