#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>

namespace convoy::trace {

// Protobuf's wire format, appended to a string: fields in the order in which they are called.
class ProtoWriter {
 public:
  explicit ProtoWriter(std::string& to) : to_(to) {}

  void number(uint32_t field, uint64_t value) {
    varint(field << 3);
    varint(value);
  }
  void fixed64(uint32_t field, uint64_t value) {
    varint(field << 3 | 1);
    char bytes[8];
    std::memcpy(bytes, &value, sizeof bytes);  // little-endian, as the machine
    to_.append(bytes, sizeof bytes);
  }
  void text(uint32_t field, std::string_view value) {
    varint(field << 3 | 2);
    varint(value.size());
    to_.append(value);
  }
  // `body` appends the message's fields.
  template <class Body>
  void message(uint32_t field, Body body) {
    varint(field << 3 | 2);
    const size_t at = to_.size();
    to_.push_back(0);
    body();
    size_t length = to_.size() - at - 1;
    char bytes[10];
    size_t count = 0;
    for (; length >= 0x80; length >>= 7) bytes[count++] = static_cast<char>(length | 0x80);
    bytes[count++] = static_cast<char>(length);
    to_[at] = bytes[0];
    if (count > 1) to_.insert(at + 1, bytes + 1, count - 1);
  }

 private:
  void varint(uint64_t value) {
    while (value >= 0x80) {
      to_.push_back(static_cast<char>(value | 0x80));
      value >>= 7;
    }
    to_.push_back(static_cast<char>(value));
  }

  std::string& to_;
};

}  // namespace convoy::trace
