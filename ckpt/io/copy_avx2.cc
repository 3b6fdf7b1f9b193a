#define CONVOY_KERNEL kCopyKernelAvx2
#define CONVOY_KERNEL_NAME "avx2"
#include "ckpt/io/copy_kernel.inc"
