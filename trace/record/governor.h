#pragma once

#include <convoy/trace/segment.h>

namespace convoy::trace {

// Decides at which level to record so that tracing stays within its budget. No clock of its own:
// it is told how much time has passed.
class Governor {
 public:
  explicit Governor(double budget) : budget_(budget) {}

  // `share`: of the last `seconds`, that the tracer cost while the level was `now`. Returns the
  // level to go on with.
  Level decide(Level now, double share, double seconds);

 private:
  // After it has lowered the level it waits this long before it tries the higher one again, and
  // twice as long each time that this was a mistake.
  static constexpr double kPauseMin = 10, kPauseMax = 640;

  const double budget_;
  Level wanted_ = Level::kOff;  // as somebody else has set it
  Level own_ = Level::kOff;     // as it was last returned
  double pause_ = kPauseMin;
  double since_lowered_ = 0;
  double since_raised_ = kPauseMax;
};

}  // namespace convoy::trace
