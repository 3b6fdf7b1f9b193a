#pragma once

#include <convoy/base/clock.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

// The narrow waist between the disk engine and the system: every call that may block on a disk is a
// request in a queue. Tests put a queue of their own around the real one.
namespace convoy::ckpt {

enum class IoOp { kOpen, kRead, kWrite, kAllocate, kTruncate, kSync };

struct IoRequest {
  IoOp op = IoOp::kRead;
  int fd = -1;
  const char* path = nullptr;  // kOpen
  int flags = 0;               // kOpen
  std::byte* data = nullptr;   // kWrite reads it
  size_t bytes = 0;
  uint64_t offset = 0;  // kAllocate, kTruncate: the size
  int64_t result = 0;   // bytes, a descriptor, 0, or -errno
};

// One thread starts requests and waits; wake() from any.
class IoQueue {
 public:
  virtual ~IoQueue() = default;
  // `request` and its memory belong to the queue until wait() hands it back. Never blocks.
  virtual void start(IoRequest* request) = 0;
  // Adds those that have ended to `done`; if there are none, waits for one, for wake() or
  // `timeout`.
  virtual void wait(std::vector<IoRequest*>& done, Nanos timeout) = 0;
  virtual void wake() = 0;
  // A request seems lost: replaces what it occupies.
  virtual void replace_lost() {}
  // Slots of registered memory, each of at most 1 GiB; false: not possible, `why` says it.
  virtual bool register_memory(unsigned slot, std::span<std::byte> memory, std::string& why) {
    why = "there is no io_uring";
    return false;
  }
  virtual void forget_memory(unsigned slot) {}
  virtual bool is_ring() const { return false; }
};

inline constexpr unsigned kMemorySlots = 128;
inline constexpr size_t kMemorySlotBytes = size_t{1} << 30;

// Performs the request on this thread.
int64_t perform(const IoRequest& request);

// `threads` that perform requests; `on_done`, if any, is told of each that ended.
std::unique_ptr<IoQueue> make_thread_queue(unsigned threads,
                                           std::function<void()> on_done = nullptr);
// Null if the system has no usable io_uring; `why_not` says what is likely the cause.
std::unique_ptr<IoQueue> make_ring_queue(unsigned depth, std::string& why_not);

// What tests replace. (The engine's contract: convoy/ckpt/disk_file.h.)
struct DiskTestParts {
  std::function<std::unique_ptr<IoQueue>(std::unique_ptr<IoQueue>)> wrap;
  const Clock* clock = nullptr;  // must outlive the engine's thread; null: the system's
};

}  // namespace convoy::ckpt
