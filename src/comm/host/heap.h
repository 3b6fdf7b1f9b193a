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
  static constexpr size_t kClasses = 48;
  static constexpr size_t kShards = 8;
  struct alignas(64) Shard {
    std::mutex mutex;
    std::array<std::vector<uint32_t>, kClasses> free;  // offsets in units of 64 bytes
  };

  void* allocate_small(size_t size_class);
  bool refill(Shard& shard, size_t size_class);
  void* allocate_large(size_t bytes);
  void deallocate_large(uint64_t offset);
  bool grow_allowed(size_t bytes);
  void insert_free(uint64_t offset, size_t bytes);
  void erase_free(std::map<uint64_t, size_t>::iterator block);

  UniqueFd fd_;
  std::shared_ptr<HeapMapping> mapping_;
  std::unique_ptr<uint8_t[], void (*)(uint8_t*)> page_class_;  // per page: 0, or class + 1
  std::array<Shard, kShards> shards_;
  std::atomic<size_t> in_use_{0};

  mutable std::mutex mutex_;  // guards the large blocks, all below
  std::map<uint64_t, size_t> free_by_offset_;
  std::set<std::pair<size_t, uint64_t>> free_by_size_;
  std::unordered_map<uint64_t, size_t> large_;  // live large blocks
  uint64_t frontier_ = 0;                       // everything beyond was never handed out
  size_t grow_budget_ = 0;    // bytes that may be taken before memory is asked again
  size_t free_resident_ = 0;  // bytes of free blocks that still hold pages
};

}  // namespace convoy::host
