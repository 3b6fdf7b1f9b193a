#pragma once

#include "ckpt/io/disk_core.h"
#include "ckpt/io/read_plan.h"

namespace convoy::ckpt {

// The requests of one read, and the thread that waits for them.
class ReadTask final : public Task {
 public:
  ReadTask(std::shared_ptr<DiskFile> file, std::vector<ReadBlock> plan,
           std::shared_ptr<const void> owner, DiskProgress progress)
      : file_(std::move(file)),
        plan_(std::move(plan)),
        owner_(std::move(owner)),
        progress_(std::move(progress)) {}

  // Blocks until all is there or has failed, and nothing is in flight.
  Status wait();

  std::unique_ptr<Block> next(DiskCore& core) override;
  void done(Block& block) override;
  void failed(Block* block, const Status& why) override;
  bool over() override;

 private:
  const std::shared_ptr<DiskFile> file_;
  const std::vector<ReadBlock> plan_;
  const std::shared_ptr<const void> owner_;
  const DiskProgress progress_;
  size_t next_ = 0;          // the engine's thread
  uint64_t bytes_done_ = 0;  // the same
  std::mutex mutex_;
  std::condition_variable changed_;
  size_t left_ = plan_.size();  // blocks that are not complete
  unsigned in_flight_ = 0;
  Status failure_;
};

}  // namespace convoy::ckpt
