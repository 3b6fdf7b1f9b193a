#pragma once

#include "src/standin/nccl/communicator.h"

#include <memory>
#include <vector>

// Communicators made from another one. All block until the child's ranks have come.
namespace convoy::standin::nccl {

// Collective over the parent. A negative color takes part and gets no child.
ncclResult_t split(Communicator& parent, int color, int key, Communicator* child);
// By the ranks that stay only.
ncclResult_t shrink(Communicator& parent, const std::vector<int>& excluded, Communicator& child);
// By all ranks of the parent; new ones join the id themselves.
ncclResult_t grow(Communicator& parent, int nranks, Communicator& child);

}  // namespace convoy::standin::nccl
