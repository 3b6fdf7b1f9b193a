// Picks the widest copy kernel that the processor has.
#include "ckpt/io/copy_checksum.h"

namespace convoy::ckpt {
namespace {

const CopyKernel& pick() {
#if defined(CONVOY_X86_KERNELS)
  __builtin_cpu_init();
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw")) {
    return kCopyKernelAvx512;
  }
  if (__builtin_cpu_supports("avx2")) return kCopyKernelAvx2;
#endif
  return kCopyKernelBase;
}

}  // namespace

const CopyKernel& copy_kernel() {
  static const CopyKernel& kernel = pick();
  return kernel;
}

}  // namespace convoy::ckpt
