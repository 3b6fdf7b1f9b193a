// The reduction kernels for any processor of the architecture; the compiler's flags are in
// CMakeLists.txt.
#include "src/comm/host/reduce_kernels_impl.h"

namespace convoy::host {

ReduceKernel reduce_kernel_base(DType dtype, ReduceOp op) {
  return kernel_of(dtype, op);
}

}  // namespace convoy::host
