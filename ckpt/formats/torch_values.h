#pragma once

#include "ckpt/formats/pickle.h"
#include <convoy/ckpt/records.h>

#include <cstdint>
#include <map>
#include <string>
#include <string_view>
#include <vector>

// What torch's pickles mean: tensors, plain values, and the names that a state dict makes of them.
namespace convoy::ckpt {

inline constexpr std::string_view kValueMark = "json:";  // what values begin with in a checkpoint

// "torch float32" and so on; kInvalidArgument for a dtype that checkpoints don't hold.
Result<Dtype> torch_dtype(std::string_view global, const std::string& what);

// A tensor of a zip file: elements at offset + Σ i[d]·strides[d] of record `key`.
struct TorchTensor {
  Dtype dtype = Dtype::kFloat32;
  std::vector<int64_t> shape;
  std::vector<int64_t> strides;
  std::string key;
  uint64_t storage_elements = 0;
  uint64_t offset = 0;  // elements

  uint64_t elements() const;
  bool contiguous() const;
  // Elements from the first to behind the last.
  uint64_t span() const;
};

// The tensor at `id`; kInvalidArgument or kDataLoss, naming what is wrong, if there is none that a
// checkpoint holds. Its elements lie inside of its storage as the pickle tells that.
Result<TorchTensor> torch_tensor(const Pickle& pickle, PickleId id, const std::string& what);
bool is_torch_tensor(const Pickle& pickle, PickleId id);

// A plain value as convoy.checkpoint writes it: "json:" and JSON. kInvalidArgument names what is no
// plain value.
Result<std::string> torch_value(const Pickle& pickle, PickleId id, const std::string& what);

// A state dict as flat names: keys, joined by dots. Lists with tensors in them are followed, too.
struct TorchState {
  std::vector<std::pair<std::string, TorchTensor>> tensors;
  std::vector<std::pair<std::string, std::string>> values;  // "json:…"
  std::map<std::string, std::string>
      paths;  // JSON: text, places in lists, {"key": n} for a number that is a dict's key
};
Result<TorchState> torch_state(const Pickle& pickle, const std::string& what);

}  // namespace convoy::ckpt
