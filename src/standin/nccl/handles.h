#pragma once

#include "src/standin/nccl/communicator.h"

#include <memory>

// ncclComm_t and ncclWindow_t as programs hold them.
struct ncclComm {
  std::shared_ptr<convoy::standin::nccl::Communicator> comm;
};

struct ncclWindow_vidmem {
  std::shared_ptr<convoy::standin::nccl::Communicator> comm;
  std::vector<uint64_t> address, bytes;  // by rank, in its own process
};

namespace convoy::standin::nccl {

ncclComm_t add_handle(std::shared_ptr<Communicator> comm);
// Null, and an error for `call` remembered: it never was one, or has been destroyed or aborted.
std::shared_ptr<Communicator> find_handle(ncclComm_t handle, const char* call);
void drop_handle(ncclComm_t handle);

}  // namespace convoy::standin::nccl
