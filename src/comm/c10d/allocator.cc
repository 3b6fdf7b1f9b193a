// torch's view of the shared heap: one allocator, and the switch that makes it the process's
// default.
#include "src/comm/c10d/errors.h"
#include <convoy/base/log.h>
#include <convoy/comm/allocator.h>
#include <convoy/comm/host/node.h>

#include <ATen/EmptyTensor.h>
#include <c10/core/CPUAllocator.h>

#include <atomic>
#include <mutex>

namespace convoy::comm {
namespace {

// Smaller tensors ride inside the messages of a collective, so sharing them gains nothing.
constexpr size_t kSharedBytesMin = 512;
// Above torch's default (0). The same value switches back.
constexpr uint8_t kPriority = 100;

// The process's node, kept for good: tensors may be freed after every group, and at exit.
host::SharedHeap& heap() {
  static const std::shared_ptr<host::Node>* node = [] {
    auto made = host::Node::process_wide();
    throw_if_failed(made.status());
    return new std::shared_ptr<host::Node>(std::move(*made));
  }();
  return (*node)->heap();
}

// One deleter for both kinds of memory: torch frees some buffers (oneDNN's) by pointer alone.
void free_any(void* data) {
  if (heap().contains(data, 1)) {
    heap().deallocate(data);
  } else {
    c10::GetDefaultCPUAllocator()->raw_deallocate(data);
  }
}

class SharedAllocator final : public c10::Allocator {
 public:
  c10::DataPtr allocate(size_t bytes) override {
    if (bytes >= kSharedBytesMin) {
      if (void* data = heap().allocate(bytes)) return {data, data, &free_any, at::kCPU};
      warn_exhausted(bytes);
    }
    void* data = c10::GetDefaultCPUAllocator()->raw_allocate(bytes);
    return {data, data, &free_any, at::kCPU};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &free_any; }
  void copy_data(void* to, const void* from, size_t bytes) const override {
    default_copy_data(to, from, bytes);
  }

 private:
  void warn_exhausted(size_t bytes) {
    if (warned_.exchange(true)) return;
    CONVOY_LOG(Warn)
        << "the shared heap (" << (heap().bytes_reserved() >> 20) << " MiB) can't hold another "
        << bytes << " bytes; tensors fall back to private memory, which collectives have to copy";
  }
  std::atomic<bool> warned_ = false;
};

std::mutex switch_mutex;
int enabled_count = 0;  // guarded by switch_mutex

}  // namespace

c10::Allocator* shared_allocator() {
  static auto* allocator = new SharedAllocator;
  return allocator;
}

void enable_shared_tensors() {
  heap();  // fails here rather than in the middle of the first operator
  std::lock_guard lock(switch_mutex);
  if (enabled_count++ == 0) c10::SetCPUAllocator(shared_allocator(), kPriority);
}

void disable_shared_tensors() {
  std::lock_guard lock(switch_mutex);
  if (enabled_count == 0) return;
  if (--enabled_count == 0) c10::SetCPUAllocator(c10::GetDefaultCPUAllocator(), kPriority);
}

bool shared_tensors_enabled() {
  std::lock_guard lock(switch_mutex);
  return enabled_count > 0;
}

at::Tensor empty_shared(at::IntArrayRef sizes, at::ScalarType dtype) {
  return at::Tensor(at::detail::empty_generic(
      sizes, shared_allocator(), c10::DispatchKeySet(c10::DispatchKey::CPU), dtype, std::nullopt));
}

bool is_shared(const at::Tensor& tensor) {
  return tensor.device().is_cpu() && tensor.layout() == at::kStrided && tensor.numel() > 0 &&
         heap().contains(tensor.const_data_ptr(), tensor.element_size());
}

}  // namespace convoy::comm
