#pragma once

#include "ckpt/formats/pickle.h"
#include <convoy/ckpt/records.h>

#include <cstdint>
#include <map>
#include <string>
#include <vector>

// DCP's .metadata file as plain values.
namespace convoy::ckpt {

inline constexpr const char* kDcpMetadataName = ".metadata";

// A box of a tensor, or the bytes of a value, and where they lie.
struct DcpItem {
  std::vector<int64_t> begin;  // in the tensor; empty for a value
  std::vector<int64_t> extent;
  std::string file;  // within the folder
  uint64_t offset = 0;
  uint64_t bytes = 0;
};

struct DcpTensor {
  TensorInfo info;  // dtype kBytes, no shape: a value that torch has pickled
  std::vector<DcpItem> items;
};

struct DcpMetadata {
  std::vector<DcpTensor> tensors;
  std::map<std::string, std::string> paths;  // how names nest, JSON lists of keys
};

// Checked: boxes lie in their tensors and cover as many elements as these have, every item has its
// place, no file is outside of the folder. kDataLoss or kInvalidArgument. Pure.
Result<DcpMetadata> parse_dcp_metadata(std::vector<std::byte> bytes, const std::string& what);

}  // namespace convoy::ckpt
