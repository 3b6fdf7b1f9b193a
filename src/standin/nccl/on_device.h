#pragma once

#include <cuda_runtime_api.h>

namespace convoy::standin::nccl {

// The calling thread's device, for as long as this lives.
class OnDevice {
 public:
  explicit OnDevice(int device) {
    (void)cudaGetDevice(&before_);
    if (device != before_) (void)cudaSetDevice(device);
  }
  ~OnDevice() { (void)cudaSetDevice(before_); }
  OnDevice(const OnDevice&) = delete;
  OnDevice& operator=(const OnDevice&) = delete;

 private:
  int before_ = 0;
};

}  // namespace convoy::standin::nccl
