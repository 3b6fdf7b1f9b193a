// Devices, errors and versions.
#include "src/standin/cudart/runtime.h"
#include "src/standin/standin.h"

#include <cstdio>
#include <cstring>
#include <dlfcn.h>
#include <utility>

namespace convoy::standin {

ThreadState& ThreadState::get() {
  static thread_local ThreadState state;
  return state;
}

cudaError_t answer(cudaError_t error) {
  if (error != cudaSuccess && error != cudaErrorNotReady) ThreadState::get().last = error;
  return error;
}

int unsupported_call(const char* name);
int unsupported_call(const char* name) {
  return answer(static_cast<cudaError_t>(standin_unsupported(name)));
}

Machine& machine() {
  return Machine::get();
}

int current_device() {
  return ThreadState::get().device;
}

StreamHandle* stream_of(cudaStream_t stream) {
  const bool reserved = stream == cudaStreamLegacy || stream == cudaStreamPerThread;
  return machine().resolve(current_device(),
                           reserved ? nullptr : reinterpret_cast<StreamHandle*>(stream));
}

}  // namespace convoy::standin

using namespace convoy::standin;

namespace {

constexpr int kVersion = 13020;  // of CUDA that the stand-in speaks

struct ErrorName {
  cudaError_t error;
  const char* name;
  const char* text;
};
constexpr ErrorName kErrors[] = {
    {cudaSuccess, "cudaSuccess", "no error"},
    {cudaErrorInvalidValue, "cudaErrorInvalidValue", "invalid argument"},
    {cudaErrorMemoryAllocation, "cudaErrorMemoryAllocation", "out of memory"},
    {cudaErrorNoDevice, "cudaErrorNoDevice", "no CUDA-capable device is detected"},
    {cudaErrorInvalidDevice, "cudaErrorInvalidDevice", "invalid device ordinal"},
    {cudaErrorInvalidResourceHandle, "cudaErrorInvalidResourceHandle", "invalid resource handle"},
    {cudaErrorNotReady, "cudaErrorNotReady", "device not ready"},
    {cudaErrorNotSupported, "cudaErrorNotSupported", "operation not supported by the stand-in"},
    {cudaErrorPeerAccessAlreadyEnabled, "cudaErrorPeerAccessAlreadyEnabled",
     "peer access is already enabled"},
    {cudaErrorHostMemoryNotRegistered, "cudaErrorHostMemoryNotRegistered",
     "pointer does not correspond to a registered memory region"},
    {cudaErrorSymbolNotFound, "cudaErrorSymbolNotFound", "named symbol not found"},
};

const ErrorName* find(cudaError_t error) {
  for (const ErrorName& e : kErrors) {
    if (e.error == error) return &e;
  }
  return nullptr;
}

void fill(cudaDeviceProp& p, int device) {
  std::memset(&p, 0, sizeof p);
  std::snprintf(p.name, sizeof p.name, "Convoy stand-in (no GPU)");
  p.totalGlobalMem = machine().memory(device).capacity();
  p.sharedMemPerBlock = 48 << 10;
  p.sharedMemPerBlockOptin = 227 << 10;
  p.sharedMemPerMultiprocessor = 228 << 10;
  p.regsPerBlock = p.regsPerMultiprocessor = 65536;
  p.warpSize = 32;
  p.maxThreadsPerBlock = 1024;
  p.maxThreadsPerMultiProcessor = 2048;
  p.maxBlocksPerMultiProcessor = 32;
  p.maxThreadsDim[0] = p.maxThreadsDim[1] = 1024;
  p.maxThreadsDim[2] = 64;
  p.maxGridSize[0] = 2147483647;
  p.maxGridSize[1] = p.maxGridSize[2] = 65535;
  p.totalConstMem = 65536;
  p.major = 9;
  p.minor = 0;
  p.multiProcessorCount = 132;
  p.unifiedAddressing = p.managedMemory = p.concurrentKernels = 1;
  p.asyncEngineCount = 3;
  p.memPitch = 2147483647;
  p.textureAlignment = 512;
  p.l2CacheSize = 50 << 20;
  p.memoryBusWidth = 5120;
  p.cooperativeLaunch = 1;
  p.pciBusID = device + 1;
  std::memcpy(p.uuid.bytes, "convoy-standin", 14);
  p.uuid.bytes[15] = static_cast<char>(device);
}

}  // namespace

extern "C" {

cudaError_t cudaGetDeviceCount(int* count) {
  load_operators();
  *count = machine().devices();
  return *count > 0 ? cudaSuccess : answer(cudaErrorNoDevice);
}

cudaError_t cudaGetDevice(int* device) {
  *device = current_device();
  return machine().devices() > 0 ? cudaSuccess : answer(cudaErrorNoDevice);
}

cudaError_t cudaSetDevice(int device) {
  if (!valid_device(device)) return answer(cudaErrorInvalidDevice);
  ThreadState::get().device = device;
  return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize() {
  machine().wait_device(current_device());
  return cudaSuccess;
}

cudaError_t cudaGetDeviceProperties(cudaDeviceProp* properties, int device) {
  if (!valid_device(device)) return answer(cudaErrorInvalidDevice);
  fill(*properties, device);
  return cudaSuccess;
}

cudaError_t cudaDeviceGetAttribute(int* value, cudaDeviceAttr attribute, int device) {
  if (!valid_device(device)) return answer(cudaErrorInvalidDevice);
  cudaDeviceProp p;
  fill(p, device);
  switch (attribute) {
    case cudaDevAttrMaxThreadsPerBlock:
      *value = p.maxThreadsPerBlock;
      break;
    case cudaDevAttrMaxSharedMemoryPerBlock:
      *value = static_cast<int>(p.sharedMemPerBlock);
      break;
    case cudaDevAttrMaxSharedMemoryPerBlockOptin:
      *value = static_cast<int>(p.sharedMemPerBlockOptin);
      break;
    case cudaDevAttrWarpSize:
      *value = p.warpSize;
      break;
    case cudaDevAttrMultiProcessorCount:
      *value = p.multiProcessorCount;
      break;
    case cudaDevAttrComputeCapabilityMajor:
      *value = p.major;
      break;
    case cudaDevAttrComputeCapabilityMinor:
      *value = p.minor;
      break;
    case cudaDevAttrUnifiedAddressing:
      *value = 1;
      break;
    default:
      *value = 0;  // no memory pools, no managed memory, nothing that is not there
  }
  return cudaSuccess;
}

cudaError_t cudaDeviceGetPCIBusId(char* text, int length, int device) {
  if (!valid_device(device)) return answer(cudaErrorInvalidDevice);
  std::snprintf(text, static_cast<size_t>(length), "0000:%02x:00.0", device + 1);
  return cudaSuccess;
}

cudaError_t cudaDeviceCanAccessPeer(int* can, int device, int peer) {
  if (!valid_device(device) || !valid_device(peer)) return answer(cudaErrorInvalidDevice);
  *can = device != peer;
  return cudaSuccess;
}

cudaError_t cudaDeviceEnablePeerAccess(int peer, unsigned) {
  return valid_device(peer) ? cudaSuccess : answer(cudaErrorInvalidDevice);
}

cudaError_t cudaDeviceGetStreamPriorityRange(int* least, int* greatest) {
  *least = 0;
  *greatest = -5;
  return cudaSuccess;
}

cudaError_t cudaDriverGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int* version) {
  *version = kVersion;
  return cudaSuccess;
}

cudaError_t cudaGetLastError() {
  return std::exchange(ThreadState::get().last, cudaSuccess);
}

cudaError_t cudaPeekAtLastError() {
  return ThreadState::get().last;
}

const char* cudaGetErrorName(cudaError_t error) {
  const ErrorName* found = find(error);
  return found != nullptr ? found->name : "cudaErrorUnknown";
}

const char* cudaGetErrorString(cudaError_t error) {
  const ErrorName* found = find(error);
  return found != nullptr ? found->text : "an error that the stand-in has no text for";
}

// Of the stand-in driver, if it is loaded.
cudaError_t cudaGetDriverEntryPointByVersion(const char* symbol, void** function, unsigned,
                                             unsigned long long,
                                             cudaDriverEntryPointQueryResult* result) {
  static void* driver = ::dlopen("libcuda.so.1", RTLD_LAZY | RTLD_LOCAL);
  *function = driver == nullptr ? nullptr : ::dlsym(driver, symbol);
  const bool found = *function != nullptr;
  if (result != nullptr) {
    *result = found ? cudaDriverEntryPointSuccess : cudaDriverEntryPointSymbolNotFound;
  }
  return cudaSuccess;
}

cudaError_t cudaProfilerStart() {
  return cudaSuccess;
}

cudaError_t cudaProfilerStop() {
  return cudaSuccess;
}

}  // extern "C"
