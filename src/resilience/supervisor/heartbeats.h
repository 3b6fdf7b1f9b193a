#pragma once

#include "src/resilience/supervisor/recent.h"
#include <convoy/base/clock.h>

namespace convoy::resilience {

// Tells from how a node has been heard of so far whether it is lost. Pure.
class Heartbeats {
 public:
  explicit Heartbeats(TimePoint now) : heard_at_(now) {}

  // Its line has been made, also again: the pause before says nothing of the node's habits.
  void opened(TimePoint now);
  void heard(TimePoint now);
  // Nobody has listened until now.
  void forgive(TimePoint now) { heard_at_ = now; }
  // Its line has ended, without a word of farewell.
  void ended() { is_open_ = false; }

  bool is_open() const { return is_open_; }
  Nanos silence(TimePoint now) const { return now - heard_at_; }
  // 4 × the longest of the last 64 pauses and 2 s; half of that once the line has ended.
  Nanos limit() const;
  // Longer than it has been silent so far.
  bool is_unusual(TimePoint now) const { return silence(now) > limit() / 3; }
  bool is_lost(TimePoint now) const { return silence(now) > limit(); }

 private:
  Recent pauses_;
  TimePoint heard_at_;
  bool is_open_ = false;
};

}  // namespace convoy::resilience
