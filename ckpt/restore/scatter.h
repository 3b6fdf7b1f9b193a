#pragma once

#include "ckpt/restore/load_plan.h"

#include <array>
#include <map>
#include <mutex>

namespace convoy::ckpt {

// Takes a chunk's raw bytes apart. Any thread, for different chunks side by side.
class Scatter {
 public:
  explicit Scatter(const LoadPlan& plan) : plan_(plan) {}
  // Puts what is wanted of the chunk where it belongs.
  void put(const ChunkWork& work, const std::byte* raw);

 private:
  // An element that is to be converted and of which some bytes have come.
  struct Part {
    std::array<std::byte, 16> bytes;
    uint32_t have = 0;
  };

  void put_converted(const Move& move, uint64_t run, uint64_t low, uint64_t high,
                     const std::byte* from);
  void put_part(std::byte* to, const Element& element, uint64_t at, const std::byte* from,
                uint64_t bytes);

  const LoadPlan& plan_;
  std::mutex mutex_;
  std::map<std::byte*, Part> parts_;  // by destination; guarded by mutex_
};

}  // namespace convoy::ckpt
