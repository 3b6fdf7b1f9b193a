#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

namespace convoy {

// XXH3, 64 bits, seed 0: the checksum of every Convoy file format. It finds corruption, not malice.
uint64_t xxh3(std::span<const std::byte> bytes);

// The same over bytes that come in pieces. One thread at a time.
class Xxh3Stream {
 public:
  Xxh3Stream();
  Xxh3Stream(Xxh3Stream&&) noexcept;
  Xxh3Stream& operator=(Xxh3Stream&&) noexcept;
  ~Xxh3Stream();

  void update(std::span<const std::byte> bytes);
  // Of all bytes so far; more may follow.
  uint64_t digest() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace convoy
