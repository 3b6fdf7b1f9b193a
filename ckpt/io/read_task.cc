// Hands out the plan's requests and copies out of bounce blocks.
#include "ckpt/io/read_task.h"

#include <cstring>

namespace convoy::ckpt {

Status ReadTask::wait() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return in_flight_ == 0 && (left_ == 0 || !failure_.ok()); });
  return failure_;
}

std::unique_ptr<Block> ReadTask::next(DiskCore& core) {
  {
    const std::lock_guard lock(mutex_);
    if (!failure_.ok() || next_ == plan_.size()) return nullptr;
    ++in_flight_;
  }
  const ReadBlock& plan = plan_[next_];
  auto block = std::make_unique<Block>();
  block->index = next_++;
  block->io.op = IoOp::kRead;
  if (plan.direct == nullptr) block->bounce = core.take_bounce();
  block->data = plan.direct != nullptr ? plan.direct : block->bounce.get();
  block->bytes = plan.bytes;
  block->offset = plan.offset;
  block->needed = plan.needed();
  block->io.fd = file_->fd.get();
  block->io.data = block->data;
  block->io.bytes = block->bytes;
  block->io.offset = block->offset;
  block->owner = owner_;
  block->task = shared_from_this();
  block->file = file_;
  return block;
}

void ReadTask::done(Block& block) {
  const ReadBlock& plan = plan_[block.index];
  for (const ReadBlock::Piece& p : plan.pieces) {
    std::memcpy(p.destination, block.data + p.offset, p.bytes);
    bytes_done_ += p.bytes;
  }
  if (plan.direct != nullptr) bytes_done_ += plan.bytes;
  if (progress_) progress_(bytes_done_);
  const std::lock_guard lock(mutex_);
  --in_flight_;
  --left_;
  changed_.notify_all();
}

void ReadTask::failed(Block* block, const Status& why) {
  const std::lock_guard lock(mutex_);
  if (block != nullptr) --in_flight_;
  if (failure_.ok()) failure_ = why;
  changed_.notify_all();
}

bool ReadTask::over() {
  const std::lock_guard lock(mutex_);
  return !failure_.ok() || next_ == plan_.size();
}

}  // namespace convoy::ckpt
