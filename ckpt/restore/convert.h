#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/records.h>

#include <cstddef>

namespace convoy::ckpt {

// Converts `elements` dense elements; neither side need be aligned, and they don't overlap.
using Convert = void (*)(std::byte* to, const std::byte* from, size_t elements);

// Null if the dtypes are equal: copy then. kInvalidArgument, naming both, for what convoy::ckpt
// does not convert (restore.h).
Result<Convert> converter(Dtype from, Dtype to);

}  // namespace convoy::ckpt
