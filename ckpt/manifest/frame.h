#pragma once

#include <convoy/base/status.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

// The bytes around a record's message: {magic, version, kind, length, payload, checksum}, the same
// for every version, so that an old program can tell a newer record from a damaged one.
namespace convoy::ckpt {

inline constexpr char kRecordMagic[8] = {'C', 'V', 'C', 'K', 'P', 'T', '\r', '\n'};
enum class RecordKind : uint32_t { kPart = 1, kCommit = 2, kOwner = 3 };

struct FrameHeader {
  char magic[8];
  uint32_t version;
  uint32_t kind;
  uint64_t length;  // of the payload
};
static_assert(sizeof(FrameHeader) == 24);
static_assert(std::endian::native == std::endian::little, "records are little-endian");
inline constexpr uint64_t kFrameBytes = sizeof(FrameHeader) + sizeof(uint64_t);  // around a payload

std::string_view kind_name(RecordKind kind);

std::vector<std::byte> wrap(RecordKind kind, uint32_t version, std::span<const std::byte> payload);

struct Unwrapped {
  uint32_t version = 0;
  std::span<const std::byte> payload;  // inside of the bytes given
};
// kDataLoss or kFailedPrecondition, as decode_part().
Result<Unwrapped> unwrap(RecordKind kind, std::span<const std::byte> bytes,
                         const std::string& path);

Status damaged_record(RecordKind kind, const std::string& path, const std::string& what);

// The number of length-delimited fields at a message's top level, before anything is allocated for
// them: a hostile message of two-byte submessages would take fifty times its size. kDataLoss if
// `payload` is no message.
Result<uint64_t> count_fields(std::span<const std::byte> payload);

}  // namespace convoy::ckpt
