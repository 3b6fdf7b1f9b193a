#pragma once

#include "ckpt/io/io_queue.h"
#include "ckpt/io/token_bucket.h"
#include <convoy/base/fd.h>
#include <convoy/ckpt/disk_file.h>

#include <atomic>
#include <condition_variable>
#include <cstdlib>
#include <functional>
#include <list>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

// The engine's inside: one thread that takes blocks from tasks (files being written, ranges being
// read), keeps them in flight, resumes what came back short, and notices what does not come back.
namespace convoy::ckpt {

struct FreeMemory {
  void operator()(std::byte* p) const { std::free(p); }
};
using BouncePtr = std::unique_ptr<std::byte, FreeMemory>;

struct DiskFile {
  std::string path;
  UniqueFd fd;
  std::atomic<bool> direct{false};
  uint64_t size = 0;  // when it was opened

  size_t direct_memory_align = kDiskAlign;

  size_t align() const { return direct ? kDiskAlign : 1; }
  size_t memory_align() const { return direct ? direct_memory_align : 1; }
};

class Task;

// A request and all that must live until it is answered.
struct Block {
  IoRequest io;
  std::shared_ptr<Task> task;
  std::shared_ptr<DiskFile> file;
  std::shared_ptr<const void> owner;
  BouncePtr bounce;

  // The whole of it; `io` is what is left.
  std::byte* data = nullptr;
  size_t bytes = 0;
  uint64_t offset = 0;
  size_t needed = 0;  // a read may end early behind that
  size_t index = 0;   // for the task

  size_t done = 0;
  int retries = 0;
  TimePoint started{};
  TimePoint not_before{};  // a retry waits until then
  bool lost = false;
};

// Source of blocks. All but what its own mutex guards is used on the engine's thread only.
class Task : public std::enable_shared_from_this<Task> {
 public:
  virtual ~Task() = default;
  // The next block to start; null: none now.
  virtual std::unique_ptr<Block> next(class DiskCore& core) = 0;
  // The block is complete; its `io.result` is that of the last request.
  virtual void done(Block& block) = 0;
  // The block came to nothing. Ends the task.
  virtual void failed(Block* block, const Status& why) = 0;
  // No further blocks will come: the engine forgets the task.
  virtual bool over() = 0;
  // Whether the bandwidth limit applies.
  virtual bool moves_bytes() const { return true; }
};

class DiskCore : public std::enable_shared_from_this<DiskCore> {
 public:
  DiskCore(const DiskOptions& options, std::unique_ptr<IoQueue> queue, const Clock& clock)
      : options_(options), clock_(clock), bandwidth_(options.bandwidth), queue_(std::move(queue)) {}

  void start();
  void stop();

  // Any thread.
  Status add(std::shared_ptr<Task> task);
  void kick() { queue_->wake(); }
  // Performs one request that moves no bytes; its result, or the status that names the path.
  Result<int64_t> call(IoRequest request, std::shared_ptr<DiskFile> file);
  // O_DIRECT if the options want it and the file system takes it.
  Result<std::shared_ptr<DiskFile>> open(const std::string& path, int flags, bool may_be_direct);
  bool register_memory(std::span<std::byte> memory, std::shared_ptr<const void> owner);
  void forget_memory(const std::byte* begin);

  const DiskOptions& options() const { return options_; }
  void set_bandwidth(uint64_t rate) {
    bandwidth_ = rate;
    kick();
  }
  bool is_ring() const { return queue_->is_ring(); }
  size_t lost() const { return lost_; }

  // The engine's thread.
  BouncePtr take_bounce();
  void give_bounce(BouncePtr bounce);

 private:
  struct Memory {
    std::span<std::byte> bytes;
    std::vector<unsigned> slots;
    std::shared_ptr<const void> owner;
  };

  void run();
  void take_news();
  void on_thread(std::function<void()> what);
  bool register_pieces(Memory& memory);
  Nanos start_blocks();
  bool start_one(TimePoint now);
  void submit(std::unique_ptr<Block> block);
  void finish_block(Block* block, const Status& status);
  void answered(Block* block);
  static void give_up_direct(DiskFile& file);
  bool resume(Block& block);
  bool retry(Block& block, Nanos pause);
  Nanos look_after(TimePoint now);
  void lose(Block& block, TimePoint now);
  void forget_over();

  const DiskOptions options_;
  const Clock& clock_;
  std::atomic<uint64_t> bandwidth_;
  std::unique_ptr<IoQueue> queue_;
  std::thread thread_;

  std::mutex mutex_;
  std::condition_variable quiet_;
  std::vector<std::shared_ptr<Task>> new_tasks_;
  std::vector<std::function<void()>> calls_;
  bool stopping_ = false;
  bool idle_ = false;   // stopping and nothing in flight but what is lost
  bool ended_ = false;  // the thread is about to return

  // The engine's thread only.
  std::vector<std::shared_ptr<Task>> tasks_;
  size_t turn_ = 0;
  std::list<std::unique_ptr<Block>> in_flight_;
  std::list<std::unique_ptr<Block>> struck_;  // failed before they reached the queue (fault points)
  size_t live_ = 0, live_bytes_ = 0;          // in flight and not lost
  std::atomic<size_t> lost_{0};
  TokenBucket bucket_;
  std::vector<BouncePtr> bounces_;
  std::vector<Memory> memories_;
  std::vector<bool> slots_used_ = std::vector<bool>(kMemorySlots, false);
};

// "cannot write /path at offset 4096 (4 MiB): No space left on device; ...".
Status disk_error(const IoRequest& request, const std::string& path, int error);
const char* verb(IoOp op);

}  // namespace convoy::ckpt
