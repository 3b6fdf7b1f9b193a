// Kernels: the stand-in knows their names, and runs none. The operators that work get CPU code
// instead (src/standin/ops), so a launch that arrives here is one that can't be rehearsed.
#include "src/standin/cudart/runtime.h"

#include <cstdlib>
#include <cxxabi.h>
#include <mutex>
#include <unordered_map>

using namespace convoy::standin;

namespace {

struct Kernels {
  std::mutex mutex;
  std::unordered_map<const void*, const char*>
      names;  // by the host's stub; the names are the binary's
  static Kernels& get() {
    static auto* kernels = new Kernels;
    return *kernels;
  }
};

std::string name_of(const void* stub) {
  Kernels& kernels = Kernels::get();
  const std::lock_guard lock(kernels.mutex);
  const auto found = kernels.names.find(stub);
  if (found == kernels.names.end()) return "a kernel without a name";
  int status = 0;
  char* plain = abi::__cxa_demangle(found->second, nullptr, nullptr, &status);
  const std::string name = status == 0 ? plain : found->second;
  std::free(plain);
  return name;
}

cudaError_t launch(const void* stub) {
  machine().finding("unknown kernel",
                    name_of(stub) +
                        " was launched; the stand-in has no CPU code for it, nothing was "
                        "computed and the call failed");
  return answer(cudaErrorNotSupported);
}

struct CallConfiguration {
  dim3 grid, block;
  size_t shared = 0;
  void* stream = nullptr;
};
thread_local CallConfiguration configuration;

}  // namespace

extern "C" {

void** __cudaRegisterFatBinary(void* binary) {
  prepare_operators(binary);
  auto** handle = new void*(binary);
  return handle;
}

void __cudaRegisterFatBinaryEnd(void**) {}

void __cudaUnregisterFatBinary(void** handle) {
  delete handle;
}

void __cudaRegisterFunction(void**, const char* stub, char*, const char* name, int, uint3*, uint3*,
                            dim3*, dim3*, int*) {
  Kernels& kernels = Kernels::get();
  const std::lock_guard lock(kernels.mutex);
  kernels.names[stub] = name;
}

void __cudaRegisterVar(void**, char*, char*, const char*, int, size_t, int, int) {}

unsigned __cudaPushCallConfiguration(dim3 grid, dim3 block, size_t shared, void* stream) {
  configuration = {grid, block, shared, stream};
  return 0;
}

cudaError_t __cudaPopCallConfiguration(dim3* grid, dim3* block, size_t* shared, void* stream) {
  *grid = configuration.grid;
  *block = configuration.block;
  *shared = configuration.shared;
  *static_cast<void**>(stream) = configuration.stream;
  return cudaSuccess;
}

cudaError_t __cudaGetKernel(cudaKernel_t* kernel, const void* stub) {
  *kernel = reinterpret_cast<cudaKernel_t>(const_cast<void*>(stub));
  return cudaSuccess;
}

cudaError_t __cudaLaunchKernel(cudaKernel_t kernel, dim3, dim3, void**, size_t, cudaStream_t) {
  return launch(reinterpret_cast<const void*>(kernel));
}

cudaError_t cudaLaunchKernel(const void* stub, dim3, dim3, void**, size_t, cudaStream_t) {
  return launch(stub);
}

cudaError_t cudaLaunchKernelExC(const cudaLaunchConfig_t*, const void* stub, void**) {
  return launch(stub);
}

cudaError_t cudaLaunchCooperativeKernel(const void* stub, dim3, dim3, void**, size_t,
                                        cudaStream_t) {
  return launch(stub);
}

cudaError_t cudaFuncGetAttributes(cudaFuncAttributes* attributes, const void*) {
  *attributes = {};
  attributes->maxThreadsPerBlock = 1024;
  attributes->numRegs = 32;
  attributes->ptxVersion = attributes->binaryVersion = 90;
  return cudaSuccess;
}

cudaError_t cudaFuncSetAttribute(const void*, cudaFuncAttribute, int) {
  return cudaSuccess;
}

cudaError_t cudaKernelSetAttributeForDevice(cudaKernel_t, cudaFuncAttribute, int, int) {
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const void*, int, size_t) {
  *blocks = 1;
  return cudaSuccess;
}

cudaError_t cudaOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const void*, int,
                                                                   size_t, unsigned) {
  *blocks = 1;
  return cudaSuccess;
}

}  // extern "C"
