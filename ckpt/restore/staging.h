#pragma once

#include <cstddef>

namespace convoy::ckpt {

// Memory to read into: aligned for direct requests, and in huge pages where there are some, because
// a disk request from those is a few pieces of memory and not a thousand. Pages are made when first
// used.
class Staging {
 public:
  explicit Staging(size_t bytes);
  Staging(const Staging&) = delete;
  Staging& operator=(const Staging&) = delete;
  ~Staging();
  std::byte* data() const { return memory_; }

 private:
  std::byte* memory_ = nullptr;
};

constexpr size_t round_up(size_t x, size_t unit) {
  return (x + unit - 1) / unit * unit;
}

}  // namespace convoy::ckpt
