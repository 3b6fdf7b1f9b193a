#include "src/resilience/supervisor/heartbeats.h"

#include <algorithm>

namespace convoy::resilience {
namespace {

// Before anything is known: launchers tell their ranks' vitals four times a second.
constexpr Nanos kExpected = std::chrono::milliseconds(250);

}  // namespace

void Heartbeats::opened(TimePoint now) {
  is_open_ = true;
  heard_at_ = now;
}

void Heartbeats::heard(TimePoint now) {
  pauses_.add(now - heard_at_);
  heard_at_ = now;
}

Nanos Heartbeats::limit() const {
  const Nanos limit = Recent::limit(std::max(kExpected, pauses_.longest()));
  return is_open_ ? limit : limit / 2;
}

}  // namespace convoy::resilience
