#pragma once

#include <torch/csrc/distributed/c10d/Backend.hpp>
#include <torch/csrc/distributed/c10d/Store.hpp>

#include <chrono>
#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// Groups of CUDA tensors: libtorch's own c10d::nccl2::ProcessGroupNCCL. It lives in a library of
// its own, libconvoy_nccl, loaded on first use: libtorch_cuda is large, and CPU programs do not
// need it.
namespace convoy::comm {

struct NcclOptions {
  int device = 0;  // index of this rank's GPU
  std::string name;
  std::vector<uint64_t> global_ranks;
  std::chrono::milliseconds timeout = std::chrono::minutes(10);
  bool high_priority_stream = false;
};

// Whether this build has NCCL groups (the CUDA toolkit and NCCL's headers were there). Says nothing
// of GPUs.
bool built_with_nccl();

// Makes CUDA tensors possible in this process, by loading libtorch_cuda (a second, and hundreds of
// megabytes), and returns how many GPUs there are. Throws c10::DistBackendError (not built, library
// missing).
int load_cuda();

// A NCCL communicator of `size` ranks that meet through `store`, bound to the device. Collective;
// blocks until all have come. Throws c10::DistBackendError (not built, library or driver missing,
// no such device, NCCL's errors).
c10::intrusive_ptr<c10d::Backend> make_nccl_group(const c10::intrusive_ptr<c10d::Store>& store,
                                                  int rank, int size, const NcclOptions& options);

// Runs `aborts` between ncclGroupStart and ncclGroupEnd: each group that it aborts is told to stop
// at once, and memory is freed when all have been. One by one they would hang: what frees memory
// waits for all kernels of the device, those of groups that are not aborted yet among them. Blocks
// until all is freed. Throws c10::DistBackendError (NCCL's errors), and what `aborts` throws.
void abort_together(const std::function<void()>& aborts);

}  // namespace convoy::comm
