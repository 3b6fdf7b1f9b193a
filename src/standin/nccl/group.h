#pragma once

#include "src/standin/nccl/kernels.h"

#include <functional>
#include <memory>

// ncclGroupStart and ncclGroupEnd: what a thread has asked for since its outermost start.
namespace convoy::standin::nccl {

void group_start();
// At the outermost end: performs the jobs at once, each on a thread of its own, then launches the
// operations.
ncclResult_t group_end();
// A call that blocks for other ranks. Performed now, or at the end of the thread's group.
ncclResult_t perform_in_group(std::function<ncclResult_t()> job);
// Checked by then. Launched now, or at the end of the group.
ncclResult_t queue_operation(std::shared_ptr<Communicator> comm, Operation operation,
                             cudaStream_t stream);
// Remembers that a call of the group failed; its end then does nothing and returns this.
ncclResult_t fail_in_group(ncclResult_t result);

}  // namespace convoy::standin::nccl
