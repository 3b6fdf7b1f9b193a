// Picks the reduction kernels of the best instruction set that this processor has.
#include "src/comm/host/reduce_kernels.h"

#include <string>

namespace convoy::host {

ReduceKernel reduce_kernel_base(DType dtype, ReduceOp op);
#if defined(CONVOY_X86_KERNELS)
ReduceKernel reduce_kernel_avx2(DType dtype, ReduceOp op);
ReduceKernel reduce_kernel_avx512(DType dtype, ReduceOp op);
#endif

namespace {

using Finder = ReduceKernel (*)(DType, ReduceOp);

Finder best_finder() {
#if defined(CONVOY_X86_KERNELS)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  if (avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    return reduce_kernel_avx512;
  }
  if (avx2) return reduce_kernel_avx2;
#endif
  return reduce_kernel_base;
}

}  // namespace

Result<ReduceKernel> find_reduce_kernel(DType dtype, ReduceOp op) {
  static const Finder finder = best_finder();
  if (ReduceKernel kernel = finder(dtype, op)) return kernel;
  return Status(Code::kInvalidArgument, "the reduction '" + std::string(reduce_name(op)) +
                                            "' is not defined for " +
                                            std::string(dtype_name(dtype)));
}

}  // namespace convoy::host
