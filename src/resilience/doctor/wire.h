#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <cstring>

// What the doctors of two nodes say to each other over TCP. A message is a header of 32 bytes, the
// numbers little-endian, and behind some a payload without meaning. Only the connecting side asks,
// and it waits for an answer before it asks again, so that the listening side stores nothing.
//
//   kPing   → kPong: when the ping came and when the pong left, by the listening side's wall clock
//   kData, with a payload: no answer; the kernel's acknowledgements tell how fast it went
//   kFetch, `first` bytes → kBytes, with a payload of so many
namespace convoy::resilience {

enum class Kind : uint32_t { kPing = 1, kPong = 2, kData = 3, kFetch = 4, kBytes = 5 };

struct Header {
  std::array<char, 8> magic{'C', 'V', 'Y', 'D', 'O', 'C', '0', '1'};
  Kind kind{};
  uint32_t size = 0;   // of a kData's payload
  int64_t first = 0;   // ns since 1970, or bytes
  int64_t second = 0;  // ns since 1970
};
static_assert(sizeof(Header) == 32 && offsetof(Header, size) == 12 &&
              offsetof(Header, second) == 24);

inline constexpr uint32_t kDataMax = 1U << 20;   // payload of a kData, bytes
inline constexpr int64_t kFetchMax = 1LL << 30;  // of a kBytes

// Is this a message that the listening side takes?
inline bool is_request(const Header& header) {
  if (header.magic != Header{}.magic) return false;
  switch (header.kind) {
    case Kind::kPing:
      return header.size == 0;
    case Kind::kData:
      return header.size <= kDataMax;
    case Kind::kFetch:
      return header.size == 0 && header.first > 0 && header.first <= kFetchMax;
    default:
      return false;
  }
}

// Bytes to send: not all alike, as some tunnels compress.
template <size_t Size>
std::array<char, Size> payload() {
  std::array<char, Size> bytes;
  uint32_t state = 1;
  for (char& byte : bytes) byte = static_cast<char>((state = state * 1664525U + 1013904223U) >> 24);
  return bytes;
}

}  // namespace convoy::resilience
