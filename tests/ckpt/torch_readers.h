#pragma once

#include "ckpt/formats/dcp_metadata.h"
#include "ckpt/formats/torch_import.h"
#include <convoy/base/check.h>

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

// What the readers of PyTorch's files promise for any bytes whatever, for the fuzzer and for tests
// that spoil good files.
namespace convoy::ckpt {

inline void check_state(const TorchState& state, TorchZip* zip) {
  std::vector<std::byte> bytes;
  for (const auto& [name, tensor] : state.tensors) {
    CONVOY_CHECK(tensor.elements() == 0 || tensor.offset + tensor.span() <= tensor.storage_elements,
                 "a tensor outside of its storage was accepted");
    if (zip == nullptr || tensor.elements() == 0) continue;
    auto reader = TorchTensorReader::create(*zip, tensor);
    if (!reader.ok()) continue;
    bytes.resize(std::min<uint64_t>(4096, tensor.elements() * dtype_bytes(tensor.dtype)));
    if (tensor.contiguous() || tensor.elements() < 4096) (void)reader->read(0, bytes).ok();
  }
  for (const auto& [name, value] : state.values) {
    CONVOY_CHECK(value.starts_with(kValueMark), "a value without its mark");
  }
}

inline void read_pickle(std::span<const std::byte> bytes) {
  const auto pickle = parse_pickle({bytes.begin(), bytes.end()}, "input");
  if (!pickle.ok()) return;
  const auto state = torch_state(*pickle, "input");
  if (state.ok()) check_state(*state, nullptr);
  (void)torch_value(*pickle, pickle->root(), "input").ok();
}

inline void read_metadata(std::span<const std::byte> bytes) {
  const auto metadata = parse_dcp_metadata({bytes.begin(), bytes.end()}, "input");
  if (!metadata.ok()) return;
  for (const DcpTensor& tensor : metadata->tensors) {
    for (const DcpItem& item : tensor.items) {
      CONVOY_CHECK(check_path(item.file).ok(), "a file outside of the folder was accepted");
      for (size_t d = 0; d < item.begin.size(); ++d) {
        CONVOY_CHECK(item.begin[d] >= 0 && item.begin[d] + item.extent[d] <= tensor.info.shape[d],
                     "a chunk outside of its tensor was accepted");
      }
    }
  }
}

inline void read_zip(std::span<const std::byte> bytes) {
  auto zip = TorchZip::open(bytes, "input");
  if (!zip.ok()) return;
  auto data = zip->pickle();
  if (!data.ok()) return;
  const auto pickle = parse_pickle(std::move(data).value(), "input");
  if (!pickle.ok()) return;
  const auto state = torch_state(*pickle, "input");
  if (state.ok()) check_state(*state, &*zip);
}

}  // namespace convoy::ckpt
