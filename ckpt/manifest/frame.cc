// Puts records into their frame and takes them out; looks at nothing inside but the outline.
#include "ckpt/manifest/frame.h"

#include <convoy/base/checksum.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/records.h>

#include <algorithm>
#include <cstring>
#include <optional>

namespace convoy::ckpt {
namespace {

// Reads a varint at the front of `bytes` and removes it; nothing if it does not end within them.
std::optional<uint64_t> take_varint(std::span<const std::byte>& bytes) {
  constexpr size_t kVarintBytesMax = 10;
  uint64_t value = 0;
  for (size_t i = 0; i < std::min(bytes.size(), kVarintBytesMax); ++i) {
    const auto byte = std::to_integer<uint64_t>(bytes[i]);
    value |= (byte & 0x7f) << (7 * i);
    if (byte < 0x80) {
      bytes = bytes.subspan(i + 1);
      return value;
    }
  }
  return std::nullopt;
}

}  // namespace

std::string_view kind_name(RecordKind kind) {
  switch (kind) {
    case RecordKind::kPart:
      return "part";
    case RecordKind::kCommit:
      return "commit record";
    case RecordKind::kOwner:
      return "owner record";
  }
  return "record";
}

Status damaged_record(RecordKind kind, const std::string& path, const std::string& what) {
  return {Code::kDataLoss, std::string(kind_name(kind)) + " " + path + " is damaged: " + what +
                               ". Load another step, or this one from another tier."};
}

std::vector<std::byte> wrap(RecordKind kind, uint32_t version, std::span<const std::byte> payload) {
  FrameHeader header = {};
  std::memcpy(header.magic, kRecordMagic, sizeof(kRecordMagic));
  header.version = version;
  header.kind = static_cast<uint32_t>(kind);
  header.length = payload.size();
  std::vector<std::byte> bytes(kFrameBytes + payload.size());
  std::memcpy(bytes.data(), &header, sizeof(header));
  std::ranges::copy(payload, bytes.begin() + sizeof(header));
  const size_t body = bytes.size() - sizeof(uint64_t);
  const uint64_t checksum = xxh3(std::span(bytes).first(body));
  std::memcpy(bytes.data() + body, &checksum, sizeof(checksum));
  return bytes;
}

Result<Unwrapped> unwrap(RecordKind kind, std::span<const std::byte> bytes,
                         const std::string& path) {
  const size_t known = std::min(bytes.size(), sizeof(kRecordMagic));
  if (!std::ranges::equal(bytes.first(known),
                          std::as_bytes(std::span(kRecordMagic)).first(known))) {
    return damaged_record(kind, path, "it does not begin with the mark of Convoy's records");
  }
  if (bytes.size() < kFrameBytes) {
    return damaged_record(kind, path,
                          "it has " + std::to_string(bytes.size()) + " bytes, less than a frame");
  }
  if (bytes.size() > kRecordBytesMax) {
    return damaged_record(kind, path,
                          "it has " + format_bytes(bytes.size()) + ", but records have at most " +
                              format_bytes(kRecordBytesMax));
  }
  FrameHeader header;
  std::memcpy(&header, bytes.data(), sizeof(header));
  if (header.length != bytes.size() - kFrameBytes) {
    return damaged_record(kind, path,
                          "it has " + std::to_string(bytes.size()) +
                              " bytes, but its header tells of a payload of " +
                              std::to_string(header.length));
  }
  const size_t body = bytes.size() - sizeof(uint64_t);
  uint64_t checksum = 0;
  std::memcpy(&checksum, bytes.data() + body, sizeof(checksum));
  if (xxh3(bytes.first(body)) != checksum) {
    return damaged_record(kind, path, "it does not match its checksum");
  }
  if (header.version > kFormatVersion) {
    return Status(Code::kFailedPrecondition,
                  std::string(kind_name(kind)) + " " + path + " has format version " +
                      std::to_string(header.version) + ", but this program knows versions up to " +
                      std::to_string(kFormatVersion) +
                      ". Use the newer Convoy that wrote it; nothing was changed.");
  }
  if (header.version == 0) return damaged_record(kind, path, "its format version is 0");
  if (header.kind != static_cast<uint32_t>(kind)) {
    return damaged_record(kind, path, "it is a record of kind " + std::to_string(header.kind));
  }
  return Unwrapped{header.version, bytes.subspan(sizeof(header), header.length)};
}

Result<uint64_t> count_fields(std::span<const std::byte> payload) {
  const Status broken(Code::kDataLoss, "its message has no valid outline");
  uint64_t fields = 0;
  while (!payload.empty()) {
    const std::optional<uint64_t> tag = take_varint(payload);
    if (!tag) return broken;
    const uint64_t wire_type = *tag & 7;
    size_t skip = 0;
    if (wire_type == 0) {
      if (!take_varint(payload)) return broken;
    } else if (wire_type == 2) {
      const std::optional<uint64_t> length = take_varint(payload);
      if (!length || *length > payload.size()) return broken;
      skip = *length;
      ++fields;
    } else if (wire_type == 1 || wire_type == 5) {
      skip = wire_type == 1 ? 8 : 4;
    } else {
      return broken;  // groups: none of our writers makes them
    }
    if (skip > payload.size()) return broken;
    payload = payload.subspan(skip);
  }
  return fields;
}

}  // namespace convoy::ckpt
