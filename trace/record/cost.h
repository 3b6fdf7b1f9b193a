#pragma once

#include <convoy/trace/segment.h>

#include <cstdint>
#include <vector>

namespace convoy::trace {

// What the tracer costs all threads of this process, in ticks: records and metered calls, each as
// many as there were times what those that were timed lately took. Records that are made within
// metered calls count twice.
class CostSince {
 public:
  // Of what has been called since the last time. A single call that took long changes little.
  double take(Segment& segment);

 private:
  uint64_t records_ = 0;
  std::vector<uint64_t> calls_;  // of each meter
};

}  // namespace convoy::trace
