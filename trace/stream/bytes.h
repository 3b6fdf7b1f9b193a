#pragma once

#include <convoy/trace/event.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <string_view>

// Numbers and texts as docs/format/trace_stream.md has them.
namespace convoy::trace::wire {

inline constexpr int64_t kTimeUnit = 100;  // ns

// What a reader takes at most; more is damage or malice.
inline constexpr uint64_t kTextMax = 4096;
inline constexpr uint64_t kDefinitionsMax = 1 << 16;  // of a kind, of one rank
inline constexpr uint64_t kRowsMax = 1 << 20;         // of a kind, in one batch
inline constexpr uint64_t kRankMax = 1 << 20;
inline constexpr uint64_t kGroupRanksMax = 1 << 24;  // over all groups of one rank

enum Flag : uint8_t { kRestart = 1, kHost = 2, kState = 4, kStarted = 8 };

inline uint64_t zigzag(int64_t value) {
  return static_cast<uint64_t>(value) << 1 ^ static_cast<uint64_t>(value >> 63);
}
inline int64_t unzigzag(uint64_t value) {
  return static_cast<int64_t>(value >> 1) ^ -static_cast<int64_t>(value & 1);
}
inline int64_t units(int64_t ns) {
  return ns / kTimeUnit;
}

class Writer {
 public:
  explicit Writer(std::string& to) : to_(to) {}
  void byte(uint8_t value) { to_.push_back(static_cast<char>(value)); }
  void number(uint64_t value) {
    char bytes[10];
    size_t n = 0;
    for (; value >= 0x80; value >>= 7) bytes[n++] = static_cast<char>(value | 0x80);
    bytes[n++] = static_cast<char>(value);
    to_.append(bytes, n);
  }
  void signed_number(int64_t value) { number(zigzag(value)); }
  void text(std::string_view text) {
    text = text.substr(0, kTextMax);
    number(text.size());
    to_.append(text);
  }

 private:
  std::string& to_;
};

// Once something was wrong, failed() stays and all that is read is 0.
class Reader {
 public:
  explicit Reader(std::span<const std::byte> bytes)
      : at_(reinterpret_cast<const uint8_t*>(bytes.data())), end_(at_ + bytes.size()) {}

  bool failed() const { return failed_; }
  bool at_end() const { return at_ == end_; }
  size_t left() const { return static_cast<size_t>(end_ - at_); }
  void fail() {
    failed_ = true;
    at_ = end_;
  }

  uint8_t byte() {
    if (at_ == end_) return fail(), uint8_t{0};
    return *at_++;
  }
  uint64_t number() {
    if (at_ != end_ && *at_ < 0x80) [[likely]]
      return *at_++;
    uint64_t value = 0;
    for (unsigned shift = 0; shift < 64 && at_ != end_; shift += 7) {
      const uint8_t next = *at_++;
      value |= uint64_t{next & 0x7fU} << shift;
      if (next < 0x80) return value;
    }
    return fail(), 0;
  }
  int64_t signed_number() { return unzigzag(number()); }
  // At most `most`, else it fails.
  uint64_t number_to(uint64_t most) {
    const uint64_t value = number();
    if (value > most) return fail(), 0;
    return value;
  }
  // A number of rows, of which each takes at least `bytes`.
  uint64_t count(uint64_t most, uint64_t bytes) {
    const uint64_t value = number_to(most);
    if (value > left() / bytes) return fail(), 0;
    return value;
  }
  std::string_view text() { return take(number_to(kTextMax)); }
  std::string_view take(uint64_t size) {
    if (size > left()) return fail(), std::string_view();
    const std::string_view bytes(reinterpret_cast<const char*>(at_), size);
    at_ += size;
    return bytes;
  }

 private:
  const uint8_t* at_;
  const uint8_t* end_;
  bool failed_ = false;
};

// Operations are numbered apart in each channel: collectives of a group, messages of a group in one
// direction with one peer.
struct Channel {
  uint32_t group = 0;
  int32_t peer = -1;
  bool sends = false;
  auto operator<=>(const Channel&) const = default;
};
inline Channel channel_of(const Signature& s) {
  return {s.group, s.peer, s.is_message() && s.operation == "send"};
}

}  // namespace convoy::trace::wire
