#pragma once

#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>

namespace convoy::host {

// What travels on the message streams of a link group (those of link_channel.h). 40 bytes, little
// endian, then `payload_bytes()` bytes.
enum class FrameType : uint16_t {
  kEager = 1,  // a small message: tag, id, bytes, then its bytes. Stream 0 only, in order
  kRequest,    // a large message asks to be received: tag, id, bytes. Stream 0 only, in order
  kGrant,      // the receiver of `id` is ready
  kRefuse,     // `id` will not be received (its receive had another size), or not be sent
  kData,       // `bytes` bytes of the granted `id`, from `offset` on. Any stream
  kCredit,     // `bytes` bytes of small messages were taken by receives
  kAbort,      // the group has failed: tag is the Code, then the text
  kGoodbye,    // the rank leaves the group after `id` collectives; nothing follows
};

struct Frame {
  FrameType type = FrameType::kGoodbye;
  int32_t tag = 0;
  uint64_t id = 0;
  uint64_t bytes = 0;
  uint64_t offset = 0;

  static constexpr size_t kBytes = 40;
  static constexpr size_t kEagerMax = size_t{64} << 10;
  static constexpr size_t kFragmentMax = size_t{256} << 10;
  static constexpr size_t kTextMax = size_t{4} << 10;

  void encode(char (&bytes_out)[kBytes]) const;
  // Trusts nothing: wrong magic, type, reserved bits or a payload over its limit is kDataLoss.
  static Result<Frame> decode(const char (&bytes_in)[kBytes]);
  size_t payload_bytes() const;
};

}  // namespace convoy::host
