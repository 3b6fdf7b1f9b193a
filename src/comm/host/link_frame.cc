// The frames of the message streams, as they lie on the wire.
#include "src/comm/host/link_frame.h"

#include <cstring>
#include <string>

namespace convoy::host {
namespace {

constexpr uint32_t kMagic = 0x524d5643;  // "CVMR"

struct Wire {
  uint32_t magic;
  uint16_t type;
  uint16_t reserved;
  int32_t tag;
  uint32_t reserved2;
  uint64_t id;
  uint64_t bytes;
  uint64_t offset;
};
static_assert(sizeof(Wire) == Frame::kBytes);

}  // namespace

void Frame::encode(char (&bytes_out)[kBytes]) const {
  const Wire wire{kMagic, static_cast<uint16_t>(type), 0, tag, 0, id, bytes, offset};
  std::memcpy(bytes_out, &wire, sizeof wire);
}

Result<Frame> Frame::decode(const char (&bytes_in)[kBytes]) {
  Wire wire;
  std::memcpy(&wire, bytes_in, sizeof wire);
  if (wire.magic != kMagic || wire.reserved != 0 || wire.reserved2 != 0 ||
      wire.type < static_cast<uint16_t>(FrameType::kEager) ||
      wire.type > static_cast<uint16_t>(FrameType::kGoodbye)) {
    return Status(Code::kDataLoss, "something that is no frame");
  }
  Frame frame;
  frame.type = static_cast<FrameType>(wire.type);
  frame.tag = wire.tag;
  frame.id = wire.id;
  frame.bytes = wire.bytes;
  frame.offset = wire.offset;
  const bool too_long = (frame.type == FrameType::kEager && frame.bytes > kEagerMax) ||
                        (frame.type == FrameType::kData && frame.bytes > kFragmentMax) ||
                        (frame.type == FrameType::kAbort && frame.bytes > kTextMax);
  if (too_long) {
    return Status(Code::kDataLoss, "a frame of " + std::to_string(frame.bytes) + " bytes");
  }
  return frame;
}

size_t Frame::payload_bytes() const {
  const bool has_payload =
      type == FrameType::kEager || type == FrameType::kData || type == FrameType::kAbort;
  return has_payload ? bytes : 0;
}

}  // namespace convoy::host
