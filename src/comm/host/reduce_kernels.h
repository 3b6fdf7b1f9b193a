#pragma once

#include <convoy/base/status.h>
#include <convoy/comm/host/collective.h>

#include <cstddef>

namespace convoy::host {

struct ReduceArguments {
  const void* const* in;  // n inputs of `count` elements
  size_t n;
  const double* factors;  // n, for kPremulSum only
  size_t count;
  void* const* out;  // the result goes to each of them; one may be one of the inputs
  size_t outs;
  bool stream;  // store past the caches; then every out begins at a cache line (64 bytes)
};

// out[k][i] = in[0][i] op in[1][i] op ... op in[n-1][i], from left to right. f16 and bf16
// accumulate in f32 and are rounded once, to nearest even. kAvg divides the sum by n (integers
// truncate towards zero); kPremulSum multiplies input j by factors[j] first. Sums of integers wrap.
// min and max propagate NaN. Bool: sum, max and bor are "or", product, min and band are "and".
// Nothing but streamed output needs alignment. After streaming, stream_fence() (copy.h) must
// follow.
using ReduceKernel = void (*)(const ReduceArguments& arguments);

// The kernel for this processor; kInvalidArgument names a combination that has no meaning, as
// bitwise operations on floating point or min/max on complex numbers.
Result<ReduceKernel> find_reduce_kernel(DType dtype, ReduceOp op);

}  // namespace convoy::host
