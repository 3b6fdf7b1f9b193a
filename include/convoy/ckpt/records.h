#pragma once

#include <convoy/base/status.h>

#include <cstddef>
#include <cstdint>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// What a checkpoint says about itself, as plain values, and their bytes. docs/format/checkpoint.md
// describes every byte and the words: stream, chunk, part, commit record.
//
// Everything here is pure: no files, no state; any thread. Two values are equal if all members are.
namespace convoy::ckpt {

// The format that encode() writes. Decoders read it and all older ones.
inline constexpr uint32_t kFormatVersion = 1;

// Limits of the format. What exceeds one is refused by encode() as by decode().
inline constexpr uint64_t kRecordBytesMax = uint64_t{256} << 20;  // one encoded record
inline constexpr uint64_t kTensorsMax = 1U << 20;                 // in a part or a commit record
inline constexpr uint64_t kNameBytesMax = 4096;                   // a tensor's name
inline constexpr uint64_t kDimsMax = 16;                          // of a tensor
inline constexpr uint64_t kPartsMax = 1U << 17;                   // of a step
inline constexpr uint64_t kStreamsMax = 4096;                     // of a part
inline constexpr uint64_t kFilesMax = 1U << 16;                   // that a part refers to
inline constexpr uint64_t kPiecesMax = 1U << 22;                  // of a part
inline constexpr uint64_t kChunksMax = 1U << 24;                  // of a part; 4 TiB a node
inline constexpr uint64_t kChunkBytesMax = uint64_t{64} << 20;    // one chunk
inline constexpr uint64_t kPathBytesMax = 1024;
inline constexpr uint64_t kTextBytesMax = 4096;  // job id, mesh, who
inline constexpr uint64_t kNotesMax = 4096;      // of a commit record
inline constexpr uint64_t kNoteBytesMax = uint64_t{1} << 16;
inline constexpr uint64_t kStepsMax = 1U << 16;  // that a record names

inline constexpr size_t kChunkBytes = size_t{256} << 10;  // what writers use

// A tensor's element type. The numbers are part of the format.
enum class Dtype : uint8_t {
  kFloat32 = 1,
  kFloat64 = 2,
  kFloat16 = 3,
  kBFloat16 = 4,
  kInt8 = 5,
  kInt16 = 6,
  kInt32 = 7,
  kInt64 = 8,
  kUInt8 = 9,
  kUInt16 = 10,
  kUInt32 = 11,
  kUInt64 = 12,
  kBool = 13,
  kComplex64 = 14,
  kComplex128 = 15,
  kFloat8E4M3 = 16,
  kFloat8E5M2 = 17,
  kBytes = 18,  // the caller's own: random state, scheduler, data position; shape [n]
};
// Bytes of an element; 0 for a number that is no dtype.
uint32_t dtype_bytes(Dtype dtype);
// "float32", "bytes", …; "dtype 77" for a number that is none.
std::string dtype_name(Dtype dtype);
// The reverse; kInvalidArgument lists the names.
Result<Dtype> parse_dtype(std::string_view name);

// A global tensor. Names are any bytes but NUL, UTF-8 by custom; dimensions are ≥ 0.
struct TensorInfo {
  std::string name;
  Dtype dtype = Dtype::kFloat32;
  std::vector<int64_t> shape;  // empty = a scalar

  bool operator==(const TensorInfo&) const = default;
};

// A box of a tensor that lies densely, row-major, in a stream. Extents are ≥ 1: an empty tensor has
// no pieces.
struct StoredPiece {
  uint32_t tensor = 0;  // index into Part::tensors
  std::vector<int64_t> begin;
  std::vector<int64_t> extent;
  uint64_t offset = 0;  // in the stream, bytes

  bool operator==(const StoredPiece&) const = default;
};

enum class Codec : uint8_t { kRaw, kZstd };

// Where chunk i of a stream, bytes [i·chunk_bytes, …), is stored. Raw: `bytes` is the chunk's own
// size. Zstd: one frame, shorter than the chunk.
struct Chunk {
  uint32_t file = 0;    // index into Part::files
  uint64_t offset = 0;  // in the file
  uint32_t bytes = 0;   // in the file
  Codec codec = Codec::kRaw;
  uint64_t checksum = 0;  // XXH3-64 of the chunk's raw bytes

  bool operator==(const Chunk&) const = default;
};

// What one rank gave to the step. Pieces ascend by offset and do not overlap; what lies between
// them means nothing. Chunks cover the stream: ⌈bytes / chunk_bytes⌉ of them, the last may be
// shorter.
struct Stream {
  uint32_t rank = 0;
  uint64_t bytes = 0;
  uint32_t chunk_bytes = kChunkBytes;
  std::vector<StoredPiece> pieces;
  std::vector<Chunk> chunks;

  // Raw bytes of chunk `i`, which must exist.
  uint32_t chunk_size(uint64_t i) const;
  bool operator==(const Stream&) const = default;
};

// A file with chunks. `path` is relative to the checkpoint folder; it may be an older step's, whose
// unchanged chunks an incremental save refers to.
struct File {
  std::string path;
  uint64_t bytes = 0;

  bool operator==(const File&) const = default;
};

// What one node wrote of a step.
struct Part {
  uint64_t step = 0;
  uint32_t node = 0;
  uint64_t generation = 0;
  std::vector<TensorInfo> tensors;  // names are unique
  std::vector<File> files;
  std::vector<Stream> streams;

  bool operator==(const Part&) const = default;
};

// A part's file as its commit record knows it.
struct PartRef {
  std::string path;
  uint64_t bytes = 0;
  uint64_t checksum = 0;  // XXH3-64 of the whole file
  uint32_t node = 0;

  bool operator==(const PartRef&) const = default;
};

// Parts first, first + 1, … of Commit::parts.
struct PartRun {
  uint32_t first = 0;
  uint32_t count = 0;

  bool operator==(const PartRun&) const = default;
};

// A tensor of the step, and the parts that hold pieces of it (ascending, maximal runs).
struct TensorEntry {
  TensorInfo info;
  std::vector<PartRun> holders;

  bool operator==(const TensorEntry&) const = default;
};

// The commit record: with it a step exists, without it it does not.
struct Commit {
  uint32_t version = kFormatVersion;  // of the bytes it was read from; encode() writes its own
  uint64_t step = 0;
  std::string job;
  uint64_t generation = 0;
  uint64_t claim = 0;  // whose commit: the number of the owner record (catalog.h)
  uint32_t world_size = 0;
  std::string mesh;     // "tp=2,dp=4" of the writer, for people; readers do not need it
  int64_t wall_ns = 0;  // since 1970, for people; decides nothing
  std::vector<PartRef> parts;
  std::vector<TensorEntry> tensors;  // names are unique
  std::map<std::string, std::string> notes;
  std::vector<uint64_t> steps;  // that its files lie in, ascending; {step} unless incremental

  bool operator==(const Commit&) const = default;
};

// One commit, by name.
struct CommitKey {
  uint64_t step = 0;
  uint64_t claim = 0;

  bool operator==(const CommitKey&) const = default;
};

// The owner record: who may commit in the folder.
struct Owner {
  std::string job;
  uint64_t generation = 0;
  uint64_t claim = 0;                // its number; the folder's highest has it
  std::string who;                   // host and process, for people
  int64_t wall_ns = 0;               // when it was taken, since 1970; decides nothing
  bool sealed = false;               // whether `inherited` is complete
  std::vector<CommitKey> inherited;  // commits of earlier claims that count
  bool released = false;             // it has ended in order: nobody writes under this claim

  bool operator==(const Owner&) const = default;
};

// The record's file, byte for byte; equal values have equal bytes. kInvalidArgument says which rule
// the value breaks: the same rules as decode's.
Result<std::vector<std::byte>> encode(const Part& part);
Result<std::vector<std::byte>> encode(const Commit& commit);
Result<std::vector<std::byte>> encode(const Owner& owner);

// The reverse, of a whole file. Nothing in `bytes` is believed: whatever they hold, a value that is
// returned keeps every rule above (indices, boxes inside shapes, pieces and chunks inside streams
// and files, paths inside the folder, limits), and memory stays within a small multiple of their
// number. `path` is for messages.
// kDataLoss: not such a record, truncated or corrupt. kFailedPrecondition: made by a newer Convoy
// (the bytes are whole, but this program must not guess at them).
Result<Part> decode_part(std::span<const std::byte> bytes, const std::string& path);
Result<Commit> decode_commit(std::span<const std::byte> bytes, const std::string& path);
Result<Owner> decode_owner(std::span<const std::byte> bytes, const std::string& path);

// Whether `path` may name a file of a checkpoint folder: relative, components neither empty nor "."
// nor "..", at most 255 bytes each, no NUL, at most kPathBytesMax in all. kInvalidArgument
// otherwise.
Status check_path(std::string_view path);

}  // namespace convoy::ckpt
