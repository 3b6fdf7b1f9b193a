// Memory and events of other processes of this machine.
#include "src/standin/core/peer_memory.h"
#include "src/standin/core/shared_event.h"
#include "src/standin/cudart/runtime.h"

#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

using namespace convoy::standin;

namespace {

constexpr uint64_t kMemoryMagic = 0x6d656d2d63766779, kEventMagic = 0x6576742d63766779;

struct MemoryHandle {
  uint64_t magic = kMemoryMagic;
  StandinPeerDevice device{};
  uint64_t offset = 0;  // of the allocation on the device
};
struct EventHandleBytes {
  uint64_t magic = kEventMagic;
  SharedEventName name;
};
static_assert(sizeof(MemoryHandle) <= sizeof(cudaIpcMemHandle_t));
static_assert(sizeof(EventHandleBytes) <= sizeof(cudaIpcEventHandle_t));

std::mutex opened_mutex;
std::map<void*, int> opened;  // how often

cudaError_t refuse(cudaError_t error, const std::string& text) {
  std::fprintf(stderr, "convoy stand-in: %s\n", text.c_str());
  return answer(error);
}

}  // namespace

extern "C" {

// Of the whole allocation that the address lies in, as with CUDA.
cudaError_t cudaIpcGetMemHandle(cudaIpcMemHandle_t* handle, void* data) {
  const int device = device_of(data);
  Allocation allocation;
  bool inside = false;
  const bool found =
      handle != nullptr && valid_device(device) &&
      machine().memory(device).find(reinterpret_cast<uintptr_t>(data), allocation, inside) &&
      inside;
  if (!found) return answer(cudaErrorInvalidValue);
  MemoryHandle bytes;
  bytes.device = machine().memory(device).exported();
  bytes.offset = allocation.begin - reinterpret_cast<uintptr_t>(standin_device_base(device));
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &bytes, sizeof bytes);
  return cudaSuccess;
}

cudaError_t cudaIpcOpenMemHandle(void** data, cudaIpcMemHandle_t handle, unsigned) {
  MemoryHandle bytes;
  std::memcpy(static_cast<void*>(&bytes), &handle, sizeof bytes);
  if (data == nullptr || bytes.magic != kMemoryMagic) return answer(cudaErrorInvalidValue);
  std::string why;
  const uintptr_t begin = open_peer(bytes.device, why);
  if (begin == 0) return refuse(cudaErrorMapBufferObjectFailed, "cudaIpcOpenMemHandle: " + why);
  *data = reinterpret_cast<void*>(begin + bytes.offset);
  const std::lock_guard lock(opened_mutex);
  ++opened[*data];
  return cudaSuccess;
}

// The window stays mapped; other allocations of the peer may be in use.
cudaError_t cudaIpcCloseMemHandle(void* data) {
  const std::lock_guard lock(opened_mutex);
  const auto at = opened.find(data);
  if (at == opened.end()) return answer(cudaErrorInvalidValue);
  if (--at->second == 0) opened.erase(at);
  return cudaSuccess;
}

cudaError_t cudaIpcGetEventHandle(cudaIpcEventHandle_t* handle, cudaEvent_t event) {
  const auto* from = reinterpret_cast<EventHandle*>(event);
  if (handle == nullptr || from == nullptr || from->shared == nullptr) {
    return answer(cudaErrorInvalidResourceHandle);  // not made with cudaEventInterprocess
  }
  const EventHandleBytes bytes{kEventMagic, from->shared->name()};
  std::memset(handle, 0, sizeof *handle);
  std::memcpy(handle, &bytes, sizeof bytes);
  return cudaSuccess;
}

cudaError_t cudaIpcOpenEventHandle(cudaEvent_t* event, cudaIpcEventHandle_t handle) {
  EventHandleBytes bytes;
  std::memcpy(static_cast<void*>(&bytes), &handle, sizeof bytes);
  if (event == nullptr || bytes.magic != kEventMagic) return answer(cudaErrorInvalidValue);
  std::string why;
  auto shared = SharedEvent::open(bytes.name, why);
  if (shared == nullptr)
    return refuse(cudaErrorMapBufferObjectFailed, "cudaIpcOpenEventHandle: " + why);
  auto* made = new EventHandle;
  made->timed = false;
  made->shared = std::move(shared);
  made->imported = true;
  *event = reinterpret_cast<cudaEvent_t>(made);
  return cudaSuccess;
}

}  // extern "C"
