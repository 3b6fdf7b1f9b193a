// What libcaffe2_nvrtc imports and the stand-in does not have. Declared without arguments, which
// the calling convention allows; hence no CUDA header here.
#include "src/standin/standin.h"

#define CONVOY_UNSUPPORTED(name)       \
  extern "C" int name() {              \
    return standin_unsupported(#name); \
  }

CONVOY_UNSUPPORTED(cuFuncGetAttribute)
CONVOY_UNSUPPORTED(cuFuncSetAttribute)
CONVOY_UNSUPPORTED(cuFuncSetCacheConfig)
CONVOY_UNSUPPORTED(cuLaunchCooperativeKernel)
CONVOY_UNSUPPORTED(cuLaunchKernel)
CONVOY_UNSUPPORTED(cuLinkAddData_v2)
CONVOY_UNSUPPORTED(cuLinkComplete)
CONVOY_UNSUPPORTED(cuLinkCreate_v2)
CONVOY_UNSUPPORTED(cuModuleGetFunction)
CONVOY_UNSUPPORTED(cuModuleLoad)
CONVOY_UNSUPPORTED(cuModuleLoadData)
CONVOY_UNSUPPORTED(cuModuleLoadDataEx)
CONVOY_UNSUPPORTED(cuModuleUnload)
CONVOY_UNSUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor)
CONVOY_UNSUPPORTED(cuTensorMapEncodeTiled)
