#define CONVOY_KERNEL kCopyKernelAvx512
#define CONVOY_KERNEL_NAME "avx512"
#include "ckpt/io/copy_kernel.inc"
