#pragma once

#include <convoy/base/status.h>
#include <convoy/comm/host/collective.h>

#include <cstddef>

namespace convoy::host {

// At most so many bytes of one input are reduced at a time, so that accumulators stay in L1.
inline constexpr size_t kReduceBlockBytes = 8 * 1024;

// out[i] = in[0][i] op in[1][i] op ... op in[n-1][i], from left to right, for `count` elements (at
// most kReduceBlockBytes). f16 and bf16 accumulate in f32 and are rounded once, to nearest even.
// kAvg divides the sum by n (integers truncate towards zero); kPremulSum multiplies input j by
// factors[j] first. Sums of integers wrap. min and max propagate NaN. Bool: sum, max and bor are
// "or", product, min and band are "and". `out` may be one of the inputs. Nothing needs alignment.
using ReduceKernel = void (*)(const void* const* in, size_t n, const double* factors, size_t count,
                              void* out);

// The kernel for this processor; kInvalidArgument names a combination that has no meaning, as
// bitwise operations on floating point or min/max on complex numbers.
Result<ReduceKernel> find_reduce_kernel(DType dtype, ReduceOp op);

}  // namespace convoy::host
