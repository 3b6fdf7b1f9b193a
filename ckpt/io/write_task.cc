// Cuts a file into aligned blocks: from where the memory lies if it is aligned, else through a
// bounce block; the end is padded, and the writer sets the size afterwards.
#include "ckpt/io/write_task.h"

#include <algorithm>
#include <cstring>

namespace convoy::ckpt {
namespace {

constexpr size_t kExtentsMax = size_t{1} << 20;

}  // namespace

Status WriteTask::append(std::span<const std::byte> bytes, std::shared_ptr<const void> owner) {
  const std::lock_guard lock(mutex_);
  if (!failure_.ok()) return failure_;
  if (extents_.size() >= kExtentsMax) {
    return {Code::kResourceExhausted, file_->path + ": " + std::to_string(kExtentsMax) +
                                          " pieces wait to be written; append larger ones"};
  }
  appended_ += bytes.size();
  // Pieces of one memory that follow each other are one extent: larger blocks.
  if (!extents_.empty() && extents_.back().data + extents_.back().bytes == bytes.data() &&
      extents_.back().owner == owner) {
    extents_.back().bytes += bytes.size();
  } else if (!bytes.empty()) {
    extents_.push_back({bytes.data(), bytes.size(), std::move(owner)});
  }
  return ok_status();
}

void WriteTask::close() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
}

void WriteTask::cancel() {
  const std::lock_guard lock(mutex_);
  closing_ = true;
  extents_.clear();
  if (failure_.ok()) failure_ = Status(Code::kAborted, "writing " + file_->path + " was cancelled");
}

Status WriteTask::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return in_flight_ == 0 && (extents_.empty() || !failure_.ok()); });
  return failure_;
}

uint64_t WriteTask::appended() const {
  const std::lock_guard lock(mutex_);
  return appended_;
}

uint64_t WriteTask::written() const {
  const std::lock_guard lock(mutex_);
  return written_;
}

uint64_t WriteTask::covered() const {
  const std::lock_guard lock(mutex_);
  return covered_;
}

bool WriteTask::in_place(const Extent& extent) const {
  return extent.bytes >= file_->align() &&
         reinterpret_cast<uintptr_t>(extent.data) % file_->memory_align() == 0;
}

// Takes bytes off the front extent.
void WriteTask::advance(size_t bytes) {
  Extent& front = extents_.front();
  front.data += bytes;
  front.bytes -= bytes;
  if (front.bytes == 0) extents_.pop_front();
  next_ += bytes;
}

// Gathers up to a block; stops where writing in place can begin. Returns the bytes.
size_t WriteTask::fill(std::byte* to) {
  size_t filled = 0;
  while (filled < block_bytes_ && !extents_.empty()) {
    const Extent& front = extents_.front();
    if (filled > 0 && filled % file_->align() == 0 && in_place(front)) break;
    const size_t n = std::min(front.bytes, block_bytes_ - filled);
    std::memcpy(to + filled, front.data, n);
    filled += n;
    advance(n);
  }
  return filled;
}

std::unique_ptr<Block> WriteTask::next(DiskCore& core) {
  const std::lock_guard lock(mutex_);
  if (!failure_.ok() || extents_.empty()) return nullptr;
  const bool direct = in_place(extents_.front());
  // Less than a block to gather: more may be appended.
  if (!direct && !closing_ && appended_ - next_ < block_bytes_) return nullptr;
  auto block = std::make_unique<Block>();
  block->io.op = IoOp::kWrite;
  block->offset = next_;
  const size_t align = file_->align();
  if (direct) {
    const Extent& front = extents_.front();
    block->owner = front.owner;
    block->data = const_cast<std::byte*>(front.data);  // the kernel only reads it
    block->bytes = std::min(block_bytes_, front.bytes / align * align);
    advance(block->bytes);
  } else {
    block->bounce = core.take_bounce();
    block->data = block->bounce.get();
    const size_t filled = fill(block->data);
    block->bytes = (filled + align - 1) / align * align;
    std::memset(block->data + filled, 0, block->bytes - filled);
  }
  block->needed = block->bytes;
  covered_ = std::max(covered_, block->offset + block->bytes);
  block->io.fd = file_->fd.get();
  block->io.data = block->data;
  block->io.bytes = block->bytes;
  block->io.offset = block->offset;
  block->task = shared_from_this();
  block->file = file_;
  ++in_flight_;
  return block;
}

void WriteTask::done(Block& block) {
  uint64_t written = 0;
  {
    const std::lock_guard lock(mutex_);
    const uint64_t end = std::min(block.offset + block.bytes, appended_);
    written_ += end - block.offset;
    written = written_;
  }
  if (progress_) progress_(written);
  const std::lock_guard lock(mutex_);
  --in_flight_;
  changed_.notify_all();
}

void WriteTask::failed(Block* block, const Status& why) {
  const std::lock_guard lock(mutex_);
  if (block != nullptr) --in_flight_;
  if (failure_.ok()) failure_ = why;
  extents_.clear();
  changed_.notify_all();
}

bool WriteTask::over() {
  const std::lock_guard lock(mutex_);
  return !failure_.ok() || (closing_ && extents_.empty());
}

}  // namespace convoy::ckpt
