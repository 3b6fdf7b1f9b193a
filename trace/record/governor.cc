// The level falls as soon as a second was too expensive, and rises one by one after a pause.
#include "trace/record/governor.h"

#include <algorithm>

namespace convoy::trace {
namespace {

Level shifted(Level level, int by) {
  return static_cast<Level>(static_cast<int>(level) + by);
}

}  // namespace

Level Governor::decide(Level now, double share, double seconds) {
  if (now != own_) {
    wanted_ = own_ = now;
    pause_ = kPauseMin;
    since_raised_ = kPauseMax;
  }
  since_lowered_ += seconds;
  since_raised_ += seconds;
  // Without its collectives a rank would look as if it had stopped.
  if (share > budget_ && own_ > Level::kCollectives) {
    pause_ = since_raised_ < pause_ ? std::min(2 * pause_, kPauseMax) : kPauseMin;
    since_lowered_ = 0;
    own_ = shifted(own_, -1);
  } else if (own_ < wanted_ && share < budget_ / 2 && since_lowered_ >= pause_) {
    since_lowered_ = since_raised_ = 0;
    own_ = shifted(own_, 1);
  }
  return own_;
}

}  // namespace convoy::trace
