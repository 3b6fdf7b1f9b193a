#pragma once

#include "ckpt/formats/torch_values.h"
#include "ckpt/formats/torch_zip.h"

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

namespace convoy::ckpt {

// The value beside the state's own that says how names nest: {"model.weight": ["model", "weight"]}.
inline constexpr std::string_view kPathsName = "__dcp_planner_data__";

// What a tensor whose elements don't lie densely may take, since it is held in memory whole.
inline constexpr uint64_t kStridedBytesMax = uint64_t{1} << 30;

// Reads one tensor of a zip file, dense and row-major, front to back.
class TorchTensorReader {
 public:
  // kDataLoss if the record is smaller than the tensor needs.
  static Result<TorchTensorReader> create(TorchZip& zip, const TorchTensor& tensor);
  Status read(uint64_t offset, std::span<std::byte> out);

 private:
  TorchTensorReader(TorchZip& zip, const TorchTensor& tensor) : zip_(&zip), tensor_(&tensor) {}
  Status gather();

  TorchZip* zip_;
  const TorchTensor* tensor_;
  std::vector<std::byte> dense_;  // of a strided tensor
};

// {"a.b": ["a","b"]} as a value, from names and JSON lists.
std::string paths_value(const std::map<std::string, std::string>& paths);

}  // namespace convoy::ckpt
