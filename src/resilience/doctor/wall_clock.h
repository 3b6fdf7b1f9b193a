#pragma once

#include <cstdint>
#include <ctime>

namespace convoy::resilience {

// ns since 1970. Clocks of two nodes are compared here, so it has to be this one.
inline int64_t wall_clock_ns() {
  timespec now{};
  ::clock_gettime(CLOCK_REALTIME, &now);
  return now.tv_sec * 1'000'000'000LL + now.tv_nsec;
}

}  // namespace convoy::resilience
