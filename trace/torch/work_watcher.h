#pragma once

#include "trace/torch/group_tap.h"

#include <c10/core/Stream.h>

namespace convoy::trace {

// Looks at `work` until it is complete, and then records so for `operations`. For backends that
// tell nobody. Forgets works that failed: what they stand for has not completed.
void watch_work(std::shared_ptr<GroupTap> tap, c10::intrusive_ptr<c10d::Work> work,
                std::vector<Issued> operations);

// The same once `stream` has come to where it is now: for operations that have no Work.
void watch_stream(std::shared_ptr<GroupTap> tap, const c10::Stream& stream,
                  std::vector<Issued> operations);

}  // namespace convoy::trace
