#pragma once

#include <convoy/base/status.h>
#include <convoy/parallel/schedule/schedule.h>

namespace convoy::schedule {

// Proves that a schedule is right, whoever made it; kInvalidArgument says which rank does what
// wrong. Checked: numbers in range and peers right; every chunk runs every micro-batch forward and
// backward exactly once; everything is computed or received before it is used, and sent once;
// backwards of a chunk run in micro-batch order; activations stay within max_activations; and, by
// running the communication twice, once with sends that complete at once (buffered) and once with
// sends that wait for their receiver (rendezvous): no deadlock, and messages match in order.
Status validate(const Schedule& schedule);

// The most forwards of `rank` whose backward has not run yet, counted in chunks.
int peak_activations(const Schedule& schedule, int rank);

}  // namespace convoy::schedule
