// The engine's thread: what to start next, what to do with answers, what to do without.
#include "ckpt/io/disk_core.h"

#include <convoy/base/check.h>
#include <convoy/base/fault.h>
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <cerrno>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

// Requests that the kernel keeps for good; more and the disk is given up.
constexpr size_t kLostMax = 64;
// Of a block, without progress.
constexpr int kRetriesMax = 1000;
constexpr int kShortReadsMax = 8;
constexpr Nanos kRetryPause = std::chrono::milliseconds(1);
constexpr size_t kHugePage = size_t{2} << 20;
constexpr Nanos kIdleWait = std::chrono::seconds(10);

struct FaultNames {
  const char *fail, *kill, *space, *cut;
};

FaultNames fault_names(IoOp op) {
  switch (op) {
    case IoOp::kOpen:
      return {"ckpt.io.open", "ckpt.io.open.kill", nullptr, nullptr};
    case IoOp::kRead:
      return {"ckpt.io.read", "ckpt.io.read.kill", nullptr, "ckpt.io.read.short"};
    case IoOp::kWrite:
      return {"ckpt.io.write", "ckpt.io.write.kill", "ckpt.io.write.enospc", "ckpt.io.write.short"};
    case IoOp::kAllocate:
      return {"ckpt.io.allocate", "ckpt.io.allocate.kill", "ckpt.io.allocate.enospc", nullptr};
    case IoOp::kTruncate:
      return {"ckpt.io.truncate", "ckpt.io.truncate.kill", nullptr, nullptr};
    case IoOp::kSync:
      return {"ckpt.io.sync", "ckpt.io.sync.kill", nullptr, nullptr};
  }
  return {};
}

// The error that a fault point wants instead of the request, or 0.
int struck(IoRequest& request) {
  const FaultNames names = fault_names(request.op);
  fault::die_at(names.kill);
  if (fault::strikes(names.fail)) return EIO;
  if (names.space != nullptr && fault::strikes(names.space)) return ENOSPC;
  if (names.cut != nullptr && request.bytes >= 2 && fault::strikes(names.cut)) request.bytes /= 2;
  return 0;
}

// One request that moves no bytes, and the thread that waits for it.
class CallTask final : public Task {
 public:
  CallTask(const IoRequest& request, std::shared_ptr<DiskFile> file)
      : request_(request), file_(std::move(file)), path_(file_->path) {}

  std::unique_ptr<Block> next(DiskCore& /*core*/) override {
    if (given_) return nullptr;
    given_ = true;
    auto block = std::make_unique<Block>();
    block->io = request_;
    if (request_.op == IoOp::kOpen) block->io.path = path_.c_str();
    block->task = shared_from_this();
    block->file = file_;
    return block;
  }
  void done(Block& block) override { end(block.io.result); }
  void failed(Block* /*block*/, const Status& why) override { end(why); }
  bool over() override { return given_; }
  bool moves_bytes() const override { return false; }

  Result<int64_t> wait() {
    std::unique_lock lock(mutex_);
    changed_.wait(lock, [&] { return ended_; });
    return result_;
  }

 private:
  void end(Result<int64_t> result) {
    const std::lock_guard lock(mutex_);
    if (ended_) return;
    result_ = std::move(result);
    ended_ = true;
    changed_.notify_all();
  }

  const IoRequest request_;
  const std::shared_ptr<DiskFile> file_;
  const std::string path_;
  bool given_ = false;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool ended_ = false;
  Result<int64_t> result_{int64_t{0}};
};

// Many devices take memory at any multiple of 4 or 512 bytes (Linux 6.1 says so): more can be moved
// in place. Where offsets need more than a page, the file is better buffered.
void look_at_alignment(DiskFile& file) {
#ifdef STATX_DIOALIGN
  struct statx info {};
  if (::statx(file.fd.get(), "", AT_EMPTY_PATH, STATX_DIOALIGN, &info) != 0 ||
      (info.stx_mask & STATX_DIOALIGN) == 0) {
    return;
  }
  if (info.stx_dio_mem_align == 0 || info.stx_dio_mem_align > kDiskAlign ||
      info.stx_dio_offset_align > kDiskAlign) {
    ::fcntl(file.fd.get(), F_SETFL, ::fcntl(file.fd.get(), F_GETFL) & ~O_DIRECT);
    file.direct = false;
    return;
  }
  file.direct_memory_align = info.stx_dio_mem_align;
#endif
}

Status stopped() {
  return {Code::kFailedPrecondition, "the disk engine has been destroyed"};
}

}  // namespace

void DiskCore::start() {
  // The thread holds the core: it may outlive the engine while the kernel holds memory.
  thread_ = std::thread([self = shared_from_this()] { self->run(); });
}

void DiskCore::stop() {
  std::unique_lock lock(mutex_);
  stopping_ = true;
  queue_->wake();
  quiet_.wait(lock, [&] { return idle_; });
  const bool all_back = ended_;
  lock.unlock();
  if (all_back) {
    thread_.join();
    return;
  }
  CONVOY_LOG(Warn) << lost_ << " requests to a disk that does not answer are still with the "
                   << "kernel; their memory is kept until it gives them back";
  thread_.detach();
}

Status DiskCore::add(std::shared_ptr<Task> task) {
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return stopped();
    new_tasks_.push_back(std::move(task));
  }
  kick();
  return ok_status();
}

Result<int64_t> DiskCore::call(IoRequest request, std::shared_ptr<DiskFile> file) {
  request.fd = file->fd.get();
  auto task = std::make_shared<CallTask>(request, std::move(file));
  CONVOY_RETURN_IF_ERROR(add(task));
  return task->wait();
}

Result<std::shared_ptr<DiskFile>> DiskCore::open(const std::string& path, int flags,
                                                 bool may_be_direct) {
  auto file = std::make_shared<DiskFile>();
  file->path = path;
  IoRequest request;
  request.op = IoOp::kOpen;
  request.flags = flags | O_CLOEXEC | O_NOCTTY;
  const bool direct = may_be_direct && options_.direct;
  Result<int64_t> fd = Status(Code::kInternal, "unset");
  if (direct) {
    request.flags |= O_DIRECT;
    fd = call(request, file);
    file->direct = fd.ok();
    request.flags &= ~O_DIRECT;
  }
  // EINVAL: the file system has no O_DIRECT (tmpfs).
  if (!direct || fd.status().code() == Code::kInvalidArgument) fd = call(request, file);
  if (!fd.ok()) return fd.status();
  file->fd.reset(static_cast<int>(*fd));
  struct stat info {};
  if (::fstat(file->fd.get(), &info) != 0) return errno_status("cannot look at " + path, errno);
  if (may_be_direct && !S_ISREG(info.st_mode)) {
    return Status(Code::kInvalidArgument, path + " is no regular file");
  }
  file->size = static_cast<uint64_t>(info.st_size);
  if (file->direct) look_at_alignment(*file);
  return file;
}

BouncePtr DiskCore::take_bounce() {
  if (!bounces_.empty()) {
    BouncePtr bounce = std::move(bounces_.back());
    bounces_.pop_back();
    return bounce;
  }
  // Huge pages make a request a few pieces of memory instead of a thousand.
  const bool huge = options_.block_bytes % kHugePage == 0;
  auto* memory = static_cast<std::byte*>(
      std::aligned_alloc(huge ? kHugePage : kDiskAlign, options_.block_bytes));
  CONVOY_CHECK(memory != nullptr, "out of memory for a bounce block");
  if (huge) ::madvise(memory, options_.block_bytes, MADV_HUGEPAGE);
  return BouncePtr(memory);
}

void DiskCore::give_bounce(BouncePtr bounce) {
  if (bounce != nullptr) bounces_.push_back(std::move(bounce));
}

void DiskCore::run() {
  std::vector<IoRequest*> done;
  for (;;) {
    take_news();
    Nanos timeout = std::min(start_blocks(), look_after(clock_.now()));
    forget_over();
    {
      const std::lock_guard lock(mutex_);
      const bool news = !new_tasks_.empty() || !calls_.empty();
      if (stopping_ && live_ == 0 && !news) {
        ended_ = in_flight_.empty();
        idle_ = true;
        quiet_.notify_all();
        if (ended_) break;
      }
      if (news) timeout = Nanos::zero();
    }
    if (!struck_.empty()) timeout = Nanos::zero();
    queue_->wait(done, timeout);
    for (IoRequest* request : done) {
      const auto it = std::find_if(in_flight_.begin(), in_flight_.end(),
                                   [&](const auto& b) { return &b->io == request; });
      CONVOY_CHECK(it != in_flight_.end(), "an answer to no request");
      answered(it->get());
    }
    done.clear();
    while (!struck_.empty()) {
      in_flight_.splice(in_flight_.end(), struck_, struck_.begin());
      answered(in_flight_.back().get());
    }
  }
  memories_.clear();
}

// Tasks and calls that other threads have left.
void DiskCore::take_news() {
  std::vector<std::function<void()>> calls;
  bool stopping = false;
  {
    const std::lock_guard lock(mutex_);
    tasks_.insert(tasks_.end(), new_tasks_.begin(), new_tasks_.end());
    new_tasks_.clear();
    calls.swap(calls_);
    stopping = stopping_;
  }
  for (const auto& call : calls) call();
  if (!stopping) return;
  for (const auto& task : tasks_) task->failed(nullptr, stopped());
  tasks_.clear();
}

// Starts what there is room for; returns for how long the bandwidth limit holds back the rest.
Nanos DiskCore::start_blocks() {
  for (;;) {
    const TimePoint now = clock_.now();
    if (live_ >= options_.queue_depth ||
        live_bytes_ + options_.block_bytes > options_.bytes_in_flight_max) {
      return kIdleWait;
    }
    if (start_one(now)) continue;
    const Nanos unpaid = tasks_.empty() ? Nanos::zero() : bucket_.wait(bandwidth_, now);
    return unpaid > Nanos::zero() ? unpaid : kIdleWait;
  }
}

// One block of the task whose turn it is, so that files share the disk.
bool DiskCore::start_one(TimePoint now) {
  const bool throttled = bucket_.wait(bandwidth_, now) > Nanos::zero();
  for (size_t i = 0; i < tasks_.size(); ++i) {
    const std::shared_ptr<Task> task = tasks_[(turn_ + i) % tasks_.size()];
    if (throttled && task->moves_bytes()) continue;
    if (lost_ >= kLostMax) {
      task->failed(nullptr, {Code::kUnavailable,
                             std::to_string(kLostMax) +
                                 " requests to disks have not been answered; no more are sent. "
                                 "Check the device (`dmesg`) or the mount"});
      continue;
    }
    std::unique_ptr<Block> block = task->next(*this);
    if (block == nullptr) continue;
    turn_ = (turn_ + i + 1) % tasks_.size();
    if (task->moves_bytes()) bucket_.take(bandwidth_, block->bytes, now);
    submit(std::move(block));
    return true;
  }
  return false;
}

void DiskCore::submit(std::unique_ptr<Block> block) {
  ++live_;
  live_bytes_ += block->bytes;
  block->started = clock_.now();
  if (const int error = struck(block->io); error != 0) {
    block->io.result = -error;
    struck_.push_back(std::move(block));
    return;
  }
  in_flight_.push_back(std::move(block));
  queue_->start(&in_flight_.back()->io);
}

// The block leaves; its task hears how it went.
void DiskCore::finish_block(Block* block, const Status& status) {
  const auto it = std::find_if(in_flight_.begin(), in_flight_.end(),
                               [&](const auto& b) { return b.get() == block; });
  const std::unique_ptr<Block> owned = std::move(*it);
  in_flight_.erase(it);
  if (owned->lost) {
    // Its task has long been told. A file that was opened too late is of no use.
    --lost_;
    if (owned->io.op == IoOp::kOpen && owned->io.result >= 0) {
      const UniqueFd late(static_cast<int>(owned->io.result));
    }
    return;
  }
  --live_;
  live_bytes_ -= owned->bytes;
  if (status.ok()) {
    owned->task->done(*owned);
  } else {
    owned->task->failed(owned.get(), status);
  }
  give_bounce(std::move(owned->bounce));
}

// Some file systems take O_DIRECT when opening and refuse it later.
void DiskCore::give_up_direct(DiskFile& file) {
  if (!file.direct.exchange(false)) return;  // a neighbour's answer came first
  CONVOY_LOG(Info) << file.path << ": O_DIRECT is refused, so it is buffered";
  ::fcntl(file.fd.get(), F_SETFL, ::fcntl(file.fd.get(), F_GETFL) & ~O_DIRECT);
}

void DiskCore::answered(Block* block) {
  const int64_t result = block->io.result;
  const bool moves = block->io.op == IoOp::kRead || block->io.op == IoOp::kWrite;
  if (block->lost) return finish_block(block, ok_status());
  if (result == -EINTR && retry(*block, Nanos::zero())) return;
  if (result == -EAGAIN && retry(*block, kRetryPause)) return;
  if (result == -EINVAL && moves && block->retries == 0) {
    give_up_direct(*block->file);
    if (retry(*block, Nanos::zero())) return;
  }
  if (result < 0) {
    return finish_block(block, disk_error(block->io, block->file->path, static_cast<int>(-result)));
  }
  if (moves && resume(*block)) return;
  if (moves && block->done < block->needed) {
    const Status short_of(
        Code::kDataLoss,
        block->file->path + " ends at " + std::to_string(block->offset + block->done) + ", but " +
            std::to_string(block->needed) + " bytes from offset " + std::to_string(block->offset) +
            " on are needed: it has been truncated");
    return finish_block(block, block->io.op == IoOp::kRead
                                   ? short_of
                                   : disk_error(block->io, block->file->path, EIO));
  }
  finish_block(block, ok_status());
}

// Goes on with what is left of a block; false: nothing is left, or nothing more comes.
bool DiskCore::resume(Block& block) {
  const auto got = static_cast<size_t>(block.io.result);
  const size_t before = block.done;
  block.done = std::min(block.bytes, static_cast<size_t>(block.io.offset - block.offset) + got);
  if (block.done == block.bytes) return false;
  if (block.done > before) block.retries = 0;
  if (block.io.op == IoOp::kRead) {
    // The end of the file answers alike each time; a few tries tell it from a read cut short.
    if (block.done >= block.needed || got == 0 || block.retries >= kShortReadsMax) return false;
  }
  // Only from an aligned place on; what is moved twice is the same.
  const size_t from = block.done / block.file->align() * block.file->align();
  block.io.data = block.data + from;
  block.io.offset = block.offset + from;
  block.io.bytes = block.bytes - from;
  return retry(block, got == 0 ? kRetryPause : Nanos::zero());
}

// Starts the request again; false: it has been tried too often.
bool DiskCore::retry(Block& block, Nanos pause) {
  if (++block.retries > kRetriesMax) return false;
  block.started = clock_.now();
  if (pause > Nanos::zero()) {
    block.not_before = block.started + pause;
    return true;
  }
  queue_->start(&block.io);
  return true;
}

// Restarts what had to pause and gives up what has not been answered in time. Returns when to look
// again.
Nanos DiskCore::look_after(TimePoint now) {
  Nanos next = kIdleWait;
  for (const auto& block : in_flight_) {
    if (block->lost) continue;
    if (block->not_before != TimePoint{}) {
      if (now >= block->not_before) {
        block->not_before = TimePoint{};
        queue_->start(&block->io);
      } else {
        next = std::min<Nanos>(next, block->not_before - now);
      }
      continue;
    }
    if (now - block->started >= options_.stall_limit) {
      lose(*block, now);
    } else {
      next = std::min<Nanos>(next, block->started + options_.stall_limit - now);
    }
  }
  return next;
}

void DiskCore::lose(Block& block, TimePoint now) {
  block.lost = true;
  ++lost_;
  --live_;
  live_bytes_ -= block.bytes;
  queue_->replace_lost();
  std::string where;
  if (block.bytes > 0) {
    where =
        " at offset " + std::to_string(block.io.offset) + " (" + format_bytes(block.io.bytes) + ")";
  }
  const Status status(Code::kDeadlineExceeded,
                      std::string("the disk has not answered a request to ") + verb(block.io.op) +
                          " " + block.file->path + where + " for " +
                          format_duration(now - block.started) +
                          "; check the device (`dmesg`) or the mount, or raise the stall limit");
  CONVOY_LOG(Warn) << status.message();
  block.task->failed(&block, status);
}

void DiskCore::forget_over() {
  std::erase_if(tasks_, [](const auto& task) { return task->over(); });
}

void DiskCore::on_thread(std::function<void()> what) {
  std::mutex mutex;
  std::condition_variable changed;
  bool done = false;
  {
    const std::lock_guard lock(mutex_);
    if (stopping_) return;
    calls_.emplace_back([&] {
      what();
      const std::lock_guard own(mutex);
      done = true;
      changed.notify_all();
    });
  }
  kick();
  std::unique_lock lock(mutex);
  changed.wait(lock, [&] { return done; });
}

bool DiskCore::register_pieces(Memory& memory) {
  std::string why = "all " + std::to_string(kMemorySlots) + " places are taken";
  for (size_t at = 0; at < memory.bytes.size(); at += kMemorySlotBytes) {
    const auto free = std::find(slots_used_.begin(), slots_used_.end(), false);
    const auto slot = static_cast<unsigned>(free - slots_used_.begin());
    const auto piece =
        memory.bytes.subspan(at, std::min(kMemorySlotBytes, memory.bytes.size() - at));
    if (free == slots_used_.end() || !queue_->register_memory(slot, piece, why)) {
      CONVOY_LOG(Info) << "memory for disk requests is not registered: " << why;
      for (const unsigned s : memory.slots) {
        queue_->forget_memory(s);
        slots_used_[s] = false;
      }
      return false;
    }
    *free = true;
    memory.slots.push_back(slot);
  }
  return true;
}

bool DiskCore::register_memory(std::span<std::byte> bytes, std::shared_ptr<const void> owner) {
  bool good = false;
  on_thread([&] {
    Memory memory{bytes, {}, std::move(owner)};
    good = register_pieces(memory);
    if (good) memories_.push_back(std::move(memory));
  });
  return good;
}

void DiskCore::forget_memory(const std::byte* begin) {
  on_thread([&] {
    const auto it = std::find_if(memories_.begin(), memories_.end(),
                                 [&](const Memory& m) { return m.bytes.data() == begin; });
    if (it == memories_.end()) return;
    for (const unsigned slot : it->slots) {
      queue_->forget_memory(slot);
      slots_used_[slot] = false;
    }
    memories_.erase(it);
  });
}

}  // namespace convoy::ckpt
