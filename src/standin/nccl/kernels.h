#pragma once

#include "src/standin/nccl/communicator.h"

#include <memory>
#include <vector>

// What a launch does on its stream's thread.
namespace convoy::standin::nccl {

struct Operation {
  OpRecord record;
  const void* device_scalar = nullptr;        // of a created operator
  std::vector<ncclWaitSignalDesc_t> signals;  // for WaitSignal
  uint64_t target = 0;                        // PutSignal: the address in the peer's process
  OperationTrace trace;
};

// All operations of one group on one communicator, and its reference to it. Collectives run in
// order, then messages, all at once.
struct Launch {
  std::shared_ptr<Communicator> comm;
  std::vector<Operation> collectives, messages;
};
// On a stream's thread; blocks until the peers have done their part or the communicator is stopped.
void run(Launch& launch);

}  // namespace convoy::standin::nccl
