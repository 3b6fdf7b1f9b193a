#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

// What differs between two committed steps, tensor by tensor.
namespace convoy::ckpt {

enum class DifferenceKind {
  kOnlyInA,
  kOnlyInB,
  kForm,     // another dtype or shape
  kContent,  // other bytes
  kDamaged,  // can't be read in one of them; `status` says where
};

struct TensorDifference {
  DifferenceKind kind = DifferenceKind::kContent;
  TensorInfo a;  // or b's, if it is only there
  TensorInfo b;
  uint64_t elements = 0;
  uint64_t differing = 0;    // whose bytes differ
  double max_abs = 0;        // largest |a − b| of float types; infinite if one is NaN or infinite
  bool has_max_abs = false;  // whether the dtype is a float type
  Status status;
};

struct Comparison {
  uint64_t equal = 0;        // tensors
  uint64_t by_checksum = 0;  // of them, found equal without reading them
  uint64_t bytes_read = 0;
  std::vector<TensorDifference> differences;  // by name
};

// Compares the tensors whose names `want` accepts (default: all). Where both steps cut a tensor
// into the same boxes and chunks, equal checksums are taken for equal bytes (`convoy ckpt verify`
// tells whether the bytes still are what the checksums say); all else is read, with bounded memory.
// `progress` is called with the bytes compared so far and their number in all; false stops
// (kAborted).
Result<Comparison> compare_steps(Store& store_a, const Commit& a, Store& store_b, const Commit& b,
                                 const std::function<bool(const std::string&)>& want = {},
                                 const std::function<bool(uint64_t, uint64_t)>& progress = {});

}  // namespace convoy::ckpt
