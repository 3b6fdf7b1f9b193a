#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/comm/host/node.h>

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <unordered_map>
#include <utility>
#include <vector>

namespace convoy::host {

// One mapping of a heap's descriptor; unmapped with the last reference. Groups, peers and the heap
// itself share it, because a group may still read a peer whose node is gone.
class HeapMapping {
 public:
  static Result<std::shared_ptr<HeapMapping>> map(int fd, size_t bytes);
  HeapMapping(char* base, size_t bytes) : base_(base), bytes_(bytes) {}
  HeapMapping(const HeapMapping&) = delete;
  HeapMapping& operator=(const HeapMapping&) = delete;
  ~HeapMapping();

  char* base() const { return base_; }
  size_t bytes() const { return bytes_; }
  bool contains(const void* data, size_t bytes) const {
    const auto at = reinterpret_cast<uintptr_t>(data), from = reinterpret_cast<uintptr_t>(base_);
    return at >= from && bytes <= bytes_ && at - from <= bytes_ - bytes;
  }
  uint64_t offset_of(const void* data) const { return static_cast<const char*>(data) - base_; }

 private:
  char* base_;
  size_t bytes_;
};

// The shared heap. All book-keeping lies outside of the shared pages, so that no peer can break it.
// Small blocks (up to kSmallMax) come from slabs with one free list a size class, sharded by
// thread; large ones are best fit over 4 KiB pages with coalescing. A process forked from this one
// shares the pages but must not allocate: there the heap answers null and ignores frees.
class Heap final : public SharedHeap {
 public:
  static Result<std::shared_ptr<Heap>> create(size_t bytes);
  Heap(UniqueFd fd, std::shared_ptr<HeapMapping> mapping);
  ~Heap() override;

  void* allocate(size_t bytes) override;
  void deallocate(void* data) override;
  bool contains(const void* data, size_t bytes) const override {
    return mapping_->contains(data, bytes);
  }
  size_t bytes_in_use() const override;
  size_t bytes_reserved() const override;

  int fd() const { return fd_.get(); }
  const std::shared_ptr<HeapMapping>& mapping() const { return mapping_; }
  uint64_t offset_of(const void* data) const { return mapping_->offset_of(data); }

 private:
  static constexpr size_t kClasses = 36;
  static constexpr size_t kShards = 8;
  struct alignas(64) Shard {
    std::mutex mutex;
    std::array<std::vector<uint64_t>, kClasses> free;  // offsets in the heap
  };
  struct FreeBlock {
    size_t bytes = 0;
    size_t resident = 0;  // at most so many of them hold pages
  };

  void* allocate_small(size_t size_class);
  bool refill(Shard& shard, size_t size_class);
  void* allocate_large(size_t bytes);
  void deallocate_large(uint64_t offset);
  bool may_grow(size_t bytes);
  FreeBlock take_free(uint64_t offset);
  void put_free(uint64_t offset, FreeBlock block);
  void give_back_pages(uint64_t offset, FreeBlock& block);
  bool foreign() const;

  UniqueFd fd_;
  std::shared_ptr<HeapMapping> mapping_;
  int owner_;            // pid of the process that made it; a forked child must not allocate
  size_t kept_max_;      // bytes of free memory that keep their pages
  uint8_t* page_class_;  // for each 4 KiB page 0, or size class + 1; own lazily filled map
  std::array<Shard, kShards> shards_;
  std::atomic<size_t> in_use_{0};

  mutable std::mutex mutex_;  // guards the large blocks: all below
  std::map<uint64_t, FreeBlock> free_by_offset_;
  std::set<std::pair<size_t, uint64_t>> free_by_size_;
  std::unordered_map<uint64_t, size_t> large_;  // live large blocks
  uint64_t frontier_ = 0;                       // nothing beyond was ever handed out
  size_t grow_budget_ = 0;    // bytes that may be taken before the system is asked again
  size_t free_resident_ = 0;  // sum over the free blocks
};

}  // namespace convoy::host
