// The reduction kernels for AVX-512 (F, BW, DQ, VL) and F16C; the compiler's flags are in
// CMakeLists.txt.
#include "src/comm/host/reduce_kernels_impl.h"

namespace convoy::host {

ReduceKernel reduce_kernel_avx512(DType dtype, ReduceOp op) {
  return kernel_of(dtype, op);
}

}  // namespace convoy::host
