#pragma once

#include <convoy/ckpt/state.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

// A rank's state as torch tensors, on the CPU or a GPU.
namespace convoy::ckpt {

// The box of a global tensor that begins at `begin` and has the tensor's sizes; any strides.
struct TensorBox {
  std::vector<int64_t> begin;
  at::Tensor data;
};

// One global tensor and this rank's boxes of it, at least one; all have its dtype.
struct NamedTensor {
  std::string name;
  std::vector<int64_t> shape;  // global
  std::vector<TensorBox> boxes;
};
using TensorState = std::vector<NamedTensor>;

// kInvalidArgument for a type that checkpoints don't know (quantised, sub-byte).
Result<Dtype> dtype_of(at::ScalarType type);

// The state's memory as it is. kInvalidArgument: a tensor that is not on the CPU, or has no known
// dtype. The state must live on while the result is used.
Result<State> host_state(const TensorState& state);

// The same boxes in host memory of their own, dense, not yet filled; pinned if the originals are on
// a GPU, so that copies run beside its work.
TensorState host_copies(const TensorState& state);
// Copies the data of each box; both have the same boxes. From or to a GPU: on the current stream,
// without waiting.
void copy_boxes(const TensorState& to, const TensorState& from);

// The GPU that boxes lie on; nullopt: all are on the CPU.
std::optional<at::Device> device_of(const TensorState& state);

}  // namespace convoy::ckpt
