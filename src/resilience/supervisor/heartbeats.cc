#include "src/resilience/supervisor/heartbeats.h"

#include <algorithm>

namespace convoy::resilience {
namespace {

constexpr size_t kPausesKept = 64;
constexpr int kTimesLongest = 4;
constexpr Nanos kMore = std::chrono::seconds(2);
// Before anything is known: launchers tell their ranks' vitals four times a second.
constexpr Nanos kExpected = std::chrono::milliseconds(250);

}  // namespace

void Heartbeats::opened(TimePoint now) {
  is_open_ = true;
  heard_at_ = now;
}

void Heartbeats::heard(TimePoint now) {
  pauses_.push_back(now - heard_at_);
  if (pauses_.size() > kPausesKept) pauses_.pop_front();
  heard_at_ = now;
}

Nanos Heartbeats::limit() const {
  Nanos longest = kExpected;
  for (const Nanos pause : pauses_) longest = std::max(longest, pause);
  const Nanos limit = kTimesLongest * longest + kMore;
  return is_open_ ? limit : limit / 2;
}

}  // namespace convoy::resilience
