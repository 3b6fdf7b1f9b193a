#pragma once

#include <convoy/ckpt/records.h>

// The rules that records keep, the same for what we write and for what we read. Pure; cost is
// linear in the record.
namespace convoy::ckpt {

// kInvalidArgument with the first rule that is broken.
Status check(const Part& part);
Status check(const Commit& commit);
Status check(const Owner& owner);

// Bytes of a box, or nothing if that overflows 2^62. Extents must be ≥ 0.
inline constexpr uint64_t kTensorBytesMax = uint64_t{1} << 62;
bool box_bytes(const std::vector<int64_t>& extent, uint32_t element_bytes, uint64_t& out);

}  // namespace convoy::ckpt
