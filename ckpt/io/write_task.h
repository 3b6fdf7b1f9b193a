#pragma once

#include "ckpt/io/disk_core.h"

#include <deque>

namespace convoy::ckpt {

// One file that is being written: a queue of extents, cut into blocks as the engine asks for them.
class WriteTask final : public Task {
 public:
  WriteTask(std::shared_ptr<DiskFile> file, size_t block_bytes, DiskProgress progress)
      : file_(std::move(file)), block_bytes_(block_bytes), progress_(std::move(progress)) {}

  // The writer's thread.
  Status append(std::span<const std::byte> bytes, std::shared_ptr<const void> owner);
  void close();   // nothing more will be appended
  void cancel();  // nothing more is to be written
  // Blocks until all that was appended is written or has failed, and nothing is in flight.
  Status wait();
  uint64_t appended() const;
  uint64_t written() const;
  // Bytes of the file that blocks have covered: the last one may be padded.
  uint64_t covered() const;
  const std::shared_ptr<DiskFile>& file() const { return file_; }

  // The engine's.
  std::unique_ptr<Block> next(DiskCore& core) override;
  void done(Block& block) override;
  void failed(Block* block, const Status& why) override;
  bool over() override;

 private:
  struct Extent {
    const std::byte* data;
    size_t bytes;
    std::shared_ptr<const void> owner;
  };

  bool in_place(const Extent& extent) const;
  void advance(size_t bytes);
  size_t fill(std::byte* to);

  const std::shared_ptr<DiskFile> file_;
  const size_t block_bytes_;
  const DiskProgress progress_;
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Extent> extents_;
  uint64_t appended_ = 0, next_ = 0, written_ = 0, covered_ = 0;
  unsigned in_flight_ = 0;
  bool closing_ = false;
  Status failure_;
};

}  // namespace convoy::ckpt
