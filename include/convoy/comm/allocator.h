#pragma once

#include <ATen/core/Tensor.h>
#include <c10/core/Allocator.h>

// Tensors in shared memory. The host backend moves such tensors between the ranks of a machine
// without staging: each rank reads and writes the others' memory. Any other tensor works too, at
// the cost of a copy.
namespace convoy::comm {

// Allocates from the heap of this process's host::Node (made on first use); memory of tensors
// smaller than a few hundred bytes, and everything once the heap is exhausted, comes from torch's
// default allocator. Lives as long as the process, so tensors may outlive every group. Thread-safe.
c10::Allocator* shared_allocator();

// Makes every CPU tensor that this process allocates from now on a shared one; tensors that exist
// stay where they are. Throws c10::DistBackendError when there can be no shared heap. Calls nest:
// the same number of disable calls restores the default. Thread-safe, and for all threads.
void enable_shared_tensors();
void disable_shared_tensors();
bool shared_tensors_enabled();

// enable_shared_tensors() for a scope.
class SharedTensors {
 public:
  SharedTensors() { enable_shared_tensors(); }
  ~SharedTensors() { disable_shared_tensors(); }
  SharedTensors(const SharedTensors&) = delete;
  SharedTensors& operator=(const SharedTensors&) = delete;
};

// An uninitialised, contiguous CPU tensor in shared memory, whether or not shared tensors are
// enabled.
at::Tensor empty_shared(at::IntArrayRef sizes, at::ScalarType dtype);
// Whether the tensor's values lie in this process's shared heap.
bool is_shared(const at::Tensor& tensor);

}  // namespace convoy::comm
