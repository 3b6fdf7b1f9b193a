#pragma once

#include <convoy/base/status.h>

#include <c10/util/intrusive_ptr.h>
#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <string>
#include <vector>

// Every operation of a c10d group into the process's segment, whatever its backend.
namespace convoy::trace {

struct AttachOptions {
  // The same on all ranks of the group, and of no other group of the job. Empty: the group's own.
  std::string name = {};
  // Of the job, in the group's order. Empty: what the backend knows of them, else 0, 1, 2, ….
  std::vector<uint32_t> ranks = {};
};

// From now on each operation is recorded as include/convoy/trace/operation.h says: issued, started
// (by the backend `convoy` only), completed. Needs an open recorder, and changes nothing of what
// operations do; a second call for a group does nothing. All ranks of a group attach at the same
// place of the program, since each counts its operations from there. Any thread, but not while
// others issue operations of the group (c10d's lists of hooks have no lock).
//
// How completion is learned: by completion hooks from the backends that have them (`convoy`,
// `nccl`), by the Work's future on Gloo, and otherwise (`nccl-legacy`; messages on Gloo) by looking
// at the Work every millisecond while it is open, which keeps its tensors for that long.
// Operations that a CUDA graph captures are counted, not recorded.
//
// kFailedPrecondition: no recorder; kInvalidArgument: `ranks` don't fit the group.
Status attach(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
              const AttachOptions& options = {});

// After ProcessGroup::endCoalescing(), which fires no hooks, with what it returned: the operations
// since startCoalescing() complete with it. Not needed with the backend `convoy`.
void batch_ended(const c10::intrusive_ptr<c10d::ProcessGroup>& group,
                 const c10::intrusive_ptr<c10d::Work>& work);

}  // namespace convoy::trace
