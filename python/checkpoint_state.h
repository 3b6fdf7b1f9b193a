#pragma once

#include <convoy/base/clock.h>
#include <convoy/ckpt/state.h>

#include <torch/csrc/distributed/c10d/ProcessGroup.hpp>

#include <cstdint>
#include <string>
#include <tuple>
#include <utility>
#include <vector>

// What the checkpoint bindings share: tensors as Python gives them, addresses with their boxes.
namespace convoy::python {

using Sizes = std::vector<int64_t>;
using PyBox = std::tuple<Sizes, Sizes, uintptr_t, Sizes>;  // begin, extent, address, strides
using PyTensor = std::tuple<std::string, int, Sizes, std::vector<PyBox>>;
using ProcessGroup = c10::intrusive_ptr<c10d::ProcessGroup>;

inline ckpt::State state_of(const std::vector<PyTensor>& tensors) {
  ckpt::State state;
  state.reserve(tensors.size());
  for (const auto& [name, dtype, shape, boxes] : tensors) {
    ckpt::StateTensor& tensor =
        state.emplace_back(ckpt::StateTensor{{name, static_cast<ckpt::Dtype>(dtype), shape}, {}});
    for (const auto& [begin, extent, address, strides] : boxes) {
      auto* data = reinterpret_cast<std::byte*>(address);  // NOLINT(performance-no-int-to-ptr)
      tensor.boxes.push_back({begin, extent, data, strides});
    }
  }
  return state;
}

inline Nanos nanos(double seconds) {
  return std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(seconds));
}

}  // namespace convoy::python
