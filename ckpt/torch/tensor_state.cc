#include <convoy/ckpt/tensor_state.h>

#include <ATen/ops/empty.h>
#include <c10/core/ScalarType.h>

namespace convoy::ckpt {

Result<Dtype> dtype_of(at::ScalarType type) {
  switch (type) {
    case at::kFloat:
      return Dtype::kFloat32;
    case at::kDouble:
      return Dtype::kFloat64;
    case at::kHalf:
      return Dtype::kFloat16;
    case at::kBFloat16:
      return Dtype::kBFloat16;
    case at::kChar:
      return Dtype::kInt8;
    case at::kShort:
      return Dtype::kInt16;
    case at::kInt:
      return Dtype::kInt32;
    case at::kLong:
      return Dtype::kInt64;
    case at::kByte:
      return Dtype::kUInt8;
    case at::kUInt16:
      return Dtype::kUInt16;
    case at::kUInt32:
      return Dtype::kUInt32;
    case at::kUInt64:
      return Dtype::kUInt64;
    case at::kBool:
      return Dtype::kBool;
    case at::kComplexFloat:
      return Dtype::kComplex64;
    case at::kComplexDouble:
      return Dtype::kComplex128;
    case at::kFloat8_e4m3fn:
      return Dtype::kFloat8E4M3;
    case at::kFloat8_e5m2:
      return Dtype::kFloat8E5M2;
    default:
      return Status(Code::kInvalidArgument,
                    std::string("checkpoints hold no tensors of type ") + c10::toString(type));
  }
}

Result<State> host_state(const TensorState& state) {
  State out;
  for (const NamedTensor& tensor : state) {
    StateTensor& entry = out.emplace_back();
    entry.info.name = tensor.name;
    entry.info.shape = tensor.shape;
    for (const TensorBox& box : tensor.boxes) {
      const Result<Dtype> dtype = dtype_of(box.data.scalar_type());
      if (!dtype.ok()) return dtype.status().with_context("tensor " + tensor.name);
      if (!box.data.is_cpu()) {
        return Status(Code::kInvalidArgument,
                      "tensor " + tensor.name + " is on " + box.data.device().str());
      }
      entry.info.dtype = *dtype;
      entry.boxes.push_back({box.begin, box.data.sizes().vec(),
                             static_cast<std::byte*>(box.data.data_ptr()),
                             box.data.strides().vec()});
    }
  }
  return out;
}

TensorState host_copies(const TensorState& state) {
  TensorState out;
  for (const NamedTensor& tensor : state) {
    NamedTensor& entry = out.emplace_back(NamedTensor{tensor.name, tensor.shape, {}});
    for (const TensorBox& box : tensor.boxes) {
      entry.boxes.push_back(
          {box.begin,
           at::empty(box.data.sizes(),
                     at::TensorOptions(box.data.scalar_type()).pinned_memory(!box.data.is_cpu()))});
    }
  }
  return out;
}

void copy_boxes(const TensorState& to, const TensorState& from) {
  for (size_t t = 0; t < to.size(); ++t) {
    for (size_t b = 0; b < to[t].boxes.size(); ++b) {
      to[t].boxes[b].data.copy_(from[t].boxes[b].data, /*non_blocking=*/true);
    }
  }
}

std::optional<at::Device> device_of(const TensorState& state) {
  for (const NamedTensor& tensor : state) {
    for (const TensorBox& box : tensor.boxes) {
      if (!box.data.is_cpu()) return box.data.device();
    }
  }
  return std::nullopt;
}

}  // namespace convoy::ckpt
