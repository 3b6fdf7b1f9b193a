#pragma once

#include <convoy/base/status.h>
#include <convoy/parallel/schedule/schedule.h>
#include <convoy/parallel/schedule/simulate.h>

#include <string>

namespace convoy::schedule {

// A grid for a terminal, plain ASCII: a row for each rank, a column for each unit of time, where a
// chunk's forward takes one column and its backward two. "F3b" is the forward of micro-batch 3,
// chunk b (no letter with one chunk); "=" goes on with the backward at its left; "." is idle.
// kInvalidArgument if the schedule is not valid.
Result<std::string> to_text(const Schedule& schedule);

// The same as a picture: one self-contained SVG document that follows the reader's light or dark
// scheme. Blocks are drawn to the scale of `costs`; the bubble and each rank's peak activations are
// stated. kInvalidArgument as simulate().
Result<std::string> to_svg(const Schedule& schedule, const Costs& costs = {});

}  // namespace convoy::schedule
