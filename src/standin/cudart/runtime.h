#pragma once

#include "src/standin/core/machine.h"

#include <cuda_runtime_api.h>
#include <string>

// What the files of the stand-in CUDA runtime share.
namespace convoy::standin {

// The calling thread's device and its last error, as cudaGetLastError has it.
struct ThreadState {
  int device = 0;
  cudaError_t last = cudaSuccess;
  static ThreadState& get();
};

// Remembers and returns the error.
cudaError_t answer(cudaError_t error);
// The machine, unless it has no devices.
Machine& machine();
int current_device();
// Gives torch's operators their CPU code, once torch is loaded; before that, when libtorch_cuda
// registers its code, lets that library see what libtorch_cpu has (ops/meta_kernels.cc).
void load_operators();
void prepare_operators(const void* fat_binary);
// cudaStream_t as the stand-in means it; null and the two reserved handles: the null stream.
StreamHandle* stream_of(cudaStream_t stream);

inline bool valid_device(int device) {
  return device >= 0 && device < machine().devices();
}

}  // namespace convoy::standin
