#pragma once

#include <convoy/trace/segment.h>

#include <cstdint>

namespace convoy::trace {

// What the tracer has cost all threads of this process so far, in ticks: records and metered calls,
// each as many as there were times what those that were timed took. Records that are made within
// metered calls count twice.
double cost_ticks(Segment& segment);

}  // namespace convoy::trace
