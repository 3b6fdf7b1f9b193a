// Records to bytes and back, through the messages of records.proto. Conversion here is bounded by
// the message's size; whether values make sense is check()'s question.
#include "ckpt/manifest/check.h"
#include "ckpt/manifest/frame.h"
#include "ckpt/manifest/records.pb.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <functional>
#include <limits>

namespace convoy::ckpt {
namespace {

// More submessages than any valid record has; each costs some 100 bytes of memory when parsed.
constexpr uint64_t kSubmessagesMax = kTensorsMax + kPartsMax + kFilesMax + kStreamsMax + kNotesMax;

// ---- to messages

void put_tensor(const TensorInfo& tensor, proto::TensorInfo& out) {
  out.set_name(tensor.name);
  out.set_dtype(static_cast<uint32_t>(tensor.dtype));
  for (const int64_t size : tensor.shape) out.add_shape(size);
}

void put_pieces(const Part& part, const Stream& stream, proto::Stream& out) {
  uint64_t end = 0;
  for (const StoredPiece& piece : stream.pieces) {
    out.add_piece_tensor(piece.tensor);
    out.add_piece_gap(piece.offset - end);
    for (const int64_t begin : piece.begin) out.add_piece_begin(begin);
    for (const int64_t extent : piece.extent) out.add_piece_extent(extent);
    uint64_t bytes = 0;
    CONVOY_CHECK(box_bytes(piece.extent, dtype_bytes(part.tensors[piece.tensor].dtype), bytes),
                 "an unchecked piece");
    end = piece.offset + bytes;
  }
}

void put_chunks(const Stream& stream, proto::Stream& out) {
  out.mutable_chunk_checksum()->Reserve(static_cast<int>(stream.chunks.size()));
  const bool all_raw = std::ranges::all_of(
      stream.chunks, [](const Chunk& chunk) { return chunk.codec == Codec::kRaw; });
  const Chunk* last = nullptr;
  for (const Chunk& chunk : stream.chunks) {
    out.add_chunk_checksum(chunk.checksum);
    if (!all_raw) out.add_chunk_stored(chunk.codec == Codec::kRaw ? 0 : chunk.bytes);
    if (last != nullptr && chunk.file == last->file && chunk.offset == last->offset + last->bytes) {
      const int run = out.run_chunks_size() - 1;
      out.set_run_chunks(run, out.run_chunks(run) + 1);
    } else {
      out.add_run_chunks(1);
      out.add_run_file(chunk.file);
      out.add_run_offset(chunk.offset);
    }
    last = &chunk;
  }
}

proto::Part to_message(const Part& part) {
  proto::Part out;
  out.set_step(part.step);
  out.set_node(part.node);
  out.set_generation(part.generation);
  for (const TensorInfo& tensor : part.tensors) put_tensor(tensor, *out.add_tensors());
  for (const File& file : part.files) {
    proto::File& f = *out.add_files();
    f.set_path(file.path);
    f.set_bytes(file.bytes);
  }
  for (const Stream& stream : part.streams) {
    proto::Stream& s = *out.add_streams();
    s.set_rank(stream.rank);
    s.set_bytes(stream.bytes);
    s.set_chunk_bytes(stream.chunk_bytes);
    put_pieces(part, stream, s);
    put_chunks(stream, s);
  }
  return out;
}

proto::Commit to_message(const Commit& commit) {
  proto::Commit out;
  out.set_step(commit.step);
  out.set_job(commit.job);
  out.set_generation(commit.generation);
  out.set_claim(commit.claim);
  out.set_world_size(commit.world_size);
  out.set_mesh(commit.mesh);
  out.set_wall_ns(commit.wall_ns);
  for (const PartRef& part : commit.parts) {
    proto::PartRef& p = *out.add_parts();
    p.set_path(part.path);
    p.set_bytes(part.bytes);
    p.set_checksum(part.checksum);
    p.set_node(part.node);
  }
  for (const TensorEntry& entry : commit.tensors) {
    proto::TensorEntry& e = *out.add_tensors();
    put_tensor(entry.info, *e.mutable_info());
    uint32_t end = 0;
    for (const PartRun& run : entry.holders) {
      e.add_holders(run.first - end);
      e.add_holders(run.count);
      end = run.first + run.count;
    }
  }
  for (const auto& [key, value] : commit.notes) {
    proto::Note& note = *out.add_notes();
    note.set_key(key);
    note.set_value(value);
  }
  for (const uint64_t step : commit.steps) out.add_steps(step);
  return out;
}

proto::Owner to_message(const Owner& owner) {
  proto::Owner out;
  out.set_job(owner.job);
  out.set_generation(owner.generation);
  out.set_claim(owner.claim);
  out.set_who(owner.who);
  out.set_wall_ns(owner.wall_ns);
  out.set_sealed(owner.sealed);
  out.set_released(owner.released);
  for (const CommitKey& key : owner.inherited) {
    out.add_inherited_step(key.step);
    out.add_inherited_claim(key.claim);
  }
  return out;
}

template <class Record>
Result<std::vector<std::byte>> encode_record(RecordKind kind, const Record& record) {
  CONVOY_RETURN_IF_ERROR(
      check(record).with_context("cannot write a " + std::string(kind_name(kind))));
  const auto message = to_message(record);
  const size_t bytes = message.ByteSizeLong();
  if (bytes > kRecordBytesMax - kFrameBytes) {
    return Status(Code::kInvalidArgument, "cannot write a " + std::string(kind_name(kind)) +
                                              " of " + format_bytes(bytes) + ": the limit is " +
                                              format_bytes(kRecordBytesMax) + ".");
  }
  std::vector<std::byte> payload(bytes);
  CONVOY_CHECK(message.SerializeToArray(payload.data(), static_cast<int>(bytes)),
               "a message of known size does not fit");
  return wrap(kind, kFormatVersion, payload);
}

// ---- from messages; a failed status is text for damaged_record()

Status malformed(const std::string& what) {
  return {Code::kDataLoss, what};
}

// Numbers that do not fit int64 become -1, which no rule allows.
int64_t narrow(uint64_t value) {
  return value <= static_cast<uint64_t>(std::numeric_limits<int64_t>::max())
             ? static_cast<int64_t>(value)
             : -1;
}

TensorInfo get_tensor(const proto::TensorInfo& tensor) {
  TensorInfo out;
  out.name = tensor.name();
  // Numbers above a byte become 0, which is no dtype.
  out.dtype = static_cast<Dtype>(tensor.dtype() <= 0xff ? tensor.dtype() : 0);
  // One dimension over the limit is enough for check() to see it.
  const int dims = std::min<int>(tensor.shape_size(), kDimsMax + 1);
  for (int d = 0; d < dims; ++d) out.shape.push_back(narrow(tensor.shape(d)));
  return out;
}

Status get_pieces(const Part& part, const proto::Stream& stream, Stream& out) {
  int numbers = 0;  // begins and extents taken so far
  const int available = std::min(stream.piece_begin_size(), stream.piece_extent_size());
  uint64_t end = 0;
  if (stream.piece_gap_size() != stream.piece_tensor_size()) {
    return malformed("a stream's pieces have columns of different length");
  }
  for (int i = 0; i < stream.piece_tensor_size(); ++i) {
    StoredPiece piece;
    piece.tensor = stream.piece_tensor(i);
    if (piece.tensor >= part.tensors.size()) return malformed("a piece names no tensor");
    const TensorInfo& tensor = part.tensors[piece.tensor];
    const int dims = static_cast<int>(tensor.shape.size());
    if (available - numbers < dims) return malformed("a stream's pieces lack dimensions");
    for (int d = 0; d < dims; ++d) {
      piece.begin.push_back(narrow(stream.piece_begin(numbers)));
      piece.extent.push_back(narrow(stream.piece_extent(numbers++)));
      if (piece.extent.back() < 1) return malformed("a piece has an extent below 1");
    }
    uint64_t bytes = 0;
    if (!box_bytes(piece.extent, dtype_bytes(tensor.dtype), bytes) ||
        __builtin_add_overflow(end, stream.piece_gap(i), &piece.offset) ||
        __builtin_add_overflow(piece.offset, bytes, &end)) {
      return malformed("a piece ends beyond any stream");
    }
    out.pieces.push_back(std::move(piece));
  }
  if (numbers != stream.piece_begin_size() || numbers != stream.piece_extent_size()) {
    return malformed("a stream's pieces have too many dimensions");
  }
  return ok_status();
}

// Chunks [begin, end) of `out`, which lie in a row.
Status get_run(const proto::Stream& stream, int run, size_t begin, size_t end, Stream& out) {
  uint64_t offset = stream.run_offset(run);
  for (size_t i = begin; i < end; ++i) {
    Chunk& chunk = out.chunks[i];
    const uint32_t stored =
        stream.chunk_stored_size() == 0 ? 0 : stream.chunk_stored(static_cast<int>(i));
    chunk.file = stream.run_file(run);
    chunk.offset = offset;
    chunk.codec = stored == 0 ? Codec::kRaw : Codec::kZstd;
    chunk.bytes = stored == 0 ? out.chunk_size(i) : stored;
    chunk.checksum = stream.chunk_checksum(static_cast<int>(i));
    if (__builtin_add_overflow(offset, chunk.bytes, &offset)) {
      return malformed("a chunk ends beyond any file");
    }
  }
  return ok_status();
}

Status get_chunks(const proto::Stream& stream, Stream& out) {
  const auto chunks = static_cast<size_t>(stream.chunk_checksum_size());
  if (out.chunk_bytes == 0 ||
      chunks != out.bytes / out.chunk_bytes + (out.bytes % out.chunk_bytes != 0 ? 1 : 0)) {
    return malformed("a stream's chunks do not cover it");
  }
  if ((stream.chunk_stored_size() != 0 &&
       stream.chunk_stored_size() != stream.chunk_checksum_size()) ||
      stream.run_file_size() != stream.run_chunks_size() ||
      stream.run_offset_size() != stream.run_chunks_size()) {
    return malformed("a stream's chunks have columns of different length");
  }
  out.chunks.resize(chunks);
  size_t begin = 0;
  for (int run = 0; run < stream.run_chunks_size(); ++run) {
    const size_t count = stream.run_chunks(run);
    if (count < 1 || count > chunks - begin)
      return malformed("a stream has too many chunks in runs");
    CONVOY_RETURN_IF_ERROR(get_run(stream, run, begin, begin + count, out));
    begin += count;
  }
  if (begin != chunks) return malformed("a stream has chunks in no run");
  return ok_status();
}

Status from_message(const proto::Part& in, Part& out) {
  out.step = in.step();
  out.node = in.node();
  out.generation = in.generation();
  for (const proto::TensorInfo& tensor : in.tensors()) out.tensors.push_back(get_tensor(tensor));
  for (const proto::File& file : in.files()) out.files.push_back({file.path(), file.bytes()});
  uint64_t pieces = 0;
  for (const proto::Stream& stream : in.streams()) {
    Stream& s = out.streams.emplace_back();
    s.rank = stream.rank();
    s.bytes = stream.bytes();
    s.chunk_bytes = stream.chunk_bytes();
    pieces += static_cast<uint64_t>(stream.piece_tensor_size());
    if (pieces > kPiecesMax) return malformed("it has too many pieces");
    CONVOY_RETURN_IF_ERROR(get_pieces(out, stream, s));
    CONVOY_RETURN_IF_ERROR(get_chunks(stream, s));
  }
  return ok_status();
}

Status get_holders(const proto::TensorEntry& in, TensorEntry& out) {
  if (in.holders_size() % 2 != 0) return malformed("a tensor's holders are no pairs");
  uint32_t end = 0;
  for (int i = 0; i < in.holders_size(); i += 2) {
    PartRun run;
    run.count = in.holders(i + 1);
    if (__builtin_add_overflow(end, in.holders(i), &run.first) ||
        __builtin_add_overflow(run.first, run.count, &end)) {
      return malformed("a tensor's holders overflow");
    }
    out.holders.push_back(run);
  }
  return ok_status();
}

Status from_message(const proto::Commit& in, Commit& out) {
  out.step = in.step();
  out.job = in.job();
  out.generation = in.generation();
  out.claim = in.claim();
  out.world_size = in.world_size();
  out.mesh = in.mesh();
  out.wall_ns = in.wall_ns();
  for (const proto::PartRef& part : in.parts()) {
    out.parts.push_back({part.path(), part.bytes(), part.checksum(), part.node()});
  }
  for (const proto::TensorEntry& entry : in.tensors()) {
    TensorEntry& e = out.tensors.emplace_back();
    e.info = get_tensor(entry.info());
    CONVOY_RETURN_IF_ERROR(get_holders(entry, e));
  }
  for (const proto::Note& note : in.notes()) {
    if (!out.notes.empty() && note.key() <= out.notes.rbegin()->first) {
      return malformed("its notes do not ascend");
    }
    out.notes.emplace_hint(out.notes.end(), note.key(), note.value());
  }
  out.steps.assign(in.steps().begin(), in.steps().end());
  return ok_status();
}

Status from_message(const proto::Owner& in, Owner& out) {
  out.job = in.job();
  out.generation = in.generation();
  out.claim = in.claim();
  out.who = in.who();
  out.wall_ns = in.wall_ns();
  out.sealed = in.sealed();
  out.released = in.released();
  if (in.inherited_step_size() != in.inherited_claim_size()) {
    return malformed("its inherited commits have columns of different length");
  }
  for (int i = 0; i < in.inherited_step_size(); ++i) {
    out.inherited.push_back({in.inherited_step(i), in.inherited_claim(i)});
  }
  return ok_status();
}

void set_version(Commit& commit, uint32_t version) {
  commit.version = version;
}
void set_version(Part&, uint32_t) {}
void set_version(Owner&, uint32_t) {}

template <class Record, class Message>
Result<Record> decode_record(RecordKind kind, std::span<const std::byte> bytes,
                             const std::string& path) {
  CONVOY_ASSIGN_OR_RETURN(const Unwrapped frame, unwrap(kind, bytes, path));
  const Result<uint64_t> fields = count_fields(frame.payload);
  if (!fields.ok()) return damaged_record(kind, path, fields.status().message());
  if (*fields > kSubmessagesMax) return damaged_record(kind, path, "it has too many entries");
  Message message;
  if (!message.ParseFromArray(frame.payload.data(), static_cast<int>(frame.payload.size()))) {
    return damaged_record(kind, path, "its message cannot be parsed");
  }
  Record record;
  Status status = from_message(message, record);
  if (status.ok()) status = check(record);
  if (!status.ok()) return damaged_record(kind, path, status.message());
  set_version(record, frame.version);
  return record;
}

}  // namespace

uint32_t Stream::chunk_size(uint64_t i) const {
  const uint64_t begin = i * chunk_bytes;
  CONVOY_CHECK(begin < bytes, "a stream has no such chunk");
  return static_cast<uint32_t>(std::min<uint64_t>(chunk_bytes, bytes - begin));
}

Result<std::vector<std::byte>> encode(const Part& part) {
  return encode_record(RecordKind::kPart, part);
}
Result<std::vector<std::byte>> encode(const Commit& commit) {
  return encode_record(RecordKind::kCommit, commit);
}
Result<std::vector<std::byte>> encode(const Owner& owner) {
  return encode_record(RecordKind::kOwner, owner);
}

Result<Part> decode_part(std::span<const std::byte> bytes, const std::string& path) {
  return decode_record<Part, proto::Part>(RecordKind::kPart, bytes, path);
}
Result<Commit> decode_commit(std::span<const std::byte> bytes, const std::string& path) {
  return decode_record<Commit, proto::Commit>(RecordKind::kCommit, bytes, path);
}
Result<Owner> decode_owner(std::span<const std::byte> bytes, const std::string& path) {
  return decode_record<Owner, proto::Owner>(RecordKind::kOwner, bytes, path);
}

}  // namespace convoy::ckpt
