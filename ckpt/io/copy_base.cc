#define CONVOY_KERNEL kCopyKernelBase
#define CONVOY_KERNEL_NAME "base"
#include "ckpt/io/copy_kernel.inc"
