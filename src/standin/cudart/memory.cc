// Memory of devices and host, and copies between them: which way a copy goes follows from the
// addresses.
#include "src/standin/cudart/runtime.h"

#include <cstdlib>
#include <cstring>
#include <dlfcn.h>

using namespace convoy::standin;

namespace {

constexpr size_t kPage = 4096;

using Accesses = std::vector<OrderChecker::Access>;

// What of a copy the order checker can follow.
Accesses accesses_of(const void* to, const void* from, size_t bytes) {
  Accesses all;
  if (machine().is_tracked(from, bytes)) all.push_back({from, bytes, false});
  if (machine().is_tracked(to, bytes)) all.push_back({to, bytes, true});
  return all;
}

// As CUDA: from ordinary host memory the bytes are taken before the call returns, to it they have
// arrived when it returns; pinned and device memory is touched when the stream gets there.
cudaError_t copy(const char* name, void* to, const void* from, size_t bytes, StreamHandle* stream,
                 bool wait) {
  if (bytes == 0) return cudaSuccess;
  if (to == nullptr || from == nullptr) return answer(cudaErrorInvalidValue);
  const bool to_program = !machine().is_tracked(to, bytes),
             from_program = !machine().is_tracked(from, bytes);
  std::shared_ptr<std::vector<char>> taken;
  if (from_program) {
    const auto* data = static_cast<const char*>(from);
    taken = std::make_shared<std::vector<char>>(data, data + bytes);
  }
  machine().enqueue(stream, name, accesses_of(to, from, bytes), [=] {
    std::memmove(alias_of(to), taken ? taken->data() : alias_of(from), bytes);
  });
  if (wait || to_program) machine().wait(stream);
  return cudaSuccess;
}

cudaError_t fill(const char* name, void* to, int value, size_t bytes, StreamHandle* stream) {
  if (bytes == 0) return cudaSuccess;
  if (device_of(to) < 0) return answer(cudaErrorInvalidValue);
  machine().enqueue(stream, name, {{to, bytes, true}},
                    [=] { std::memset(alias_of(to), value, bytes); });
  return cudaSuccess;
}

// "cudaMalloc by libc10_cuda.so": whose allocation it is, also when the program has ended.
std::string owner(const char* call, const void* from) {
  Dl_info library;
  if (::dladdr(from, &library) == 0 || library.dli_fname == nullptr) return call;
  const std::string path = library.dli_fname;
  return std::string(call) + " by " + path.substr(path.rfind('/') + 1);
}

cudaError_t allocate(void** data, size_t bytes, const char* call, const void* from) {
  *data = nullptr;
  if (machine().devices() == 0) return answer(cudaErrorNoDevice);
  if (bytes == 0) return cudaSuccess;
  const uintptr_t at = machine().memory(current_device()).allocate(bytes, owner(call, from));
  if (at == 0) return answer(cudaErrorMemoryAllocation);
  *data = reinterpret_cast<void*>(at);
  machine().forget(*data, bytes);
  return cudaSuccess;
}

// With nothing under way on it any more.
cudaError_t give_back(void* data) {
  const int device = device_of(data);
  if (device < 0) return cudaErrorInvalidValue;
  Allocation allocation;
  bool inside = false;
  if (machine().memory(device).find(reinterpret_cast<uintptr_t>(data), allocation, inside)) {
    machine().forget(data, allocation.bytes);
  }
  std::string damage;
  if (!machine().memory(device).release(reinterpret_cast<uintptr_t>(data), damage)) {
    return cudaErrorInvalidValue;
  }
  if (!damage.empty()) machine().finding("out of bounds", damage);
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaMalloc(void** data, size_t bytes) {
  return allocate(data, bytes, "cudaMalloc", __builtin_return_address(0));
}

cudaError_t cudaFree(void* data) {
  if (data == nullptr) return cudaSuccess;
  const int device = device_of(data);
  if (device < 0) return answer(cudaErrorInvalidValue);
  machine().wait_device(device);  // as CUDA's does
  return answer(give_back(data));
}

cudaError_t cudaMallocAsync(void** data, size_t bytes, cudaStream_t) {
  return allocate(data, bytes, "cudaMallocAsync", __builtin_return_address(0));
}

cudaError_t cudaFreeAsync(void* data, cudaStream_t stream) {
  if (data == nullptr) return cudaSuccess;
  Allocation allocation;
  bool inside = false;
  const int device = device_of(data);
  const auto at = reinterpret_cast<uintptr_t>(data);
  if (device < 0 || !machine().memory(device).find(at, allocation, inside)) {
    return answer(cudaErrorInvalidValue);
  }
  machine().enqueue(stream_of(stream), "cudaFreeAsync", {{data, allocation.bytes, true}},
                    [data] { (void)give_back(data); });
  return cudaSuccess;
}

cudaError_t cudaMemGetInfo(size_t* free, size_t* total) {
  if (machine().devices() == 0) return answer(cudaErrorNoDevice);
  const DeviceMemory& memory = machine().memory(current_device());
  *total = memory.capacity();
  *free = memory.capacity() - memory.used();
  return cudaSuccess;
}

cudaError_t cudaHostAlloc(void** data, size_t bytes, unsigned) {
  *data = std::aligned_alloc(kPage, (bytes + kPage - 1) / kPage * kPage);
  if (*data == nullptr) return answer(cudaErrorMemoryAllocation);
  machine().pin(*data, bytes);
  machine().forget(*data, bytes);
  return cudaSuccess;
}

cudaError_t cudaMallocHost(void** data, size_t bytes) {
  return cudaHostAlloc(data, bytes, cudaHostAllocDefault);
}

cudaError_t cudaFreeHost(void* data) {
  if (data == nullptr) return cudaSuccess;
  for (int d = 0; d < machine().devices(); ++d) machine().wait_device(d);
  if (!machine().unpin(data)) return answer(cudaErrorInvalidValue);
  std::free(data);
  return cudaSuccess;
}

cudaError_t cudaHostRegister(void* data, size_t bytes, unsigned) {
  machine().pin(data, bytes);
  return cudaSuccess;
}

cudaError_t cudaHostUnregister(void* data) {
  return machine().unpin(data) ? cudaSuccess : answer(cudaErrorHostMemoryNotRegistered);
}

cudaError_t cudaPointerGetAttributes(cudaPointerAttributes* attributes, const void* data) {
  std::memset(attributes, 0, sizeof *attributes);
  const int device = device_of(data);
  attributes->device = device >= 0 ? device : current_device();
  if (device >= 0) {
    attributes->type = cudaMemoryTypeDevice;
    attributes->devicePointer = const_cast<void*>(data);
  } else if (machine().is_pinned(data, 1)) {
    attributes->type = cudaMemoryTypeHost;
    attributes->hostPointer = const_cast<void*>(data);
    attributes->devicePointer = const_cast<void*>(data);
  } else {
    attributes->type = cudaMemoryTypeUnregistered;
    attributes->hostPointer = const_cast<void*>(data);
  }
  return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void* to, const void* from, size_t bytes, cudaMemcpyKind,
                            cudaStream_t stream) {
  return copy("cudaMemcpyAsync", to, from, bytes, stream_of(stream), false);
}

cudaError_t cudaMemcpy(void* to, const void* from, size_t bytes, cudaMemcpyKind) {
  return copy("cudaMemcpy", to, from, bytes, stream_of(nullptr), true);
}

cudaError_t cudaMemcpyPeerAsync(void* to, int, const void* from, int, size_t bytes,
                                cudaStream_t stream) {
  return copy("cudaMemcpyPeerAsync", to, from, bytes, stream_of(stream), false);
}

cudaError_t cudaMemcpy2DAsync(void* to, size_t to_pitch, const void* from, size_t from_pitch,
                              size_t width, size_t height, cudaMemcpyKind kind,
                              cudaStream_t stream) {
  for (size_t row = 0; row < height; ++row) {
    const cudaError_t error =
        cudaMemcpyAsync(static_cast<char*>(to) + row * to_pitch,
                        static_cast<const char*>(from) + row * from_pitch, width, kind, stream);
    if (error != cudaSuccess) return error;
  }
  return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void* to, int value, size_t bytes, cudaStream_t stream) {
  return fill("cudaMemsetAsync", to, value, bytes, stream_of(stream));
}

cudaError_t cudaMemset(void* to, int value, size_t bytes) {
  return fill("cudaMemset", to, value, bytes, stream_of(nullptr));
}

}  // extern "C"
