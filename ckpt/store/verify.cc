// Reads chunks back and checks them.
#include <convoy/base/checksum.h>
#include <convoy/ckpt/catalog.h>

#include <algorithm>
#include <zstd.h>

namespace convoy::ckpt {
namespace {

std::string chunk_name(const Part& part, const Stream& stream, uint64_t i) {
  const Chunk& chunk = stream.chunks[i];
  return "chunk " + std::to_string(i) + " of rank " + std::to_string(stream.rank) + " in " +
         part.files[chunk.file].path + " at " + std::to_string(chunk.offset);
}

Status read_zstd(Store& store, const File& file, const Chunk& chunk, const std::string& name,
                 std::span<std::byte> out) {
  std::vector<std::byte> stored(chunk.bytes);
  CONVOY_RETURN_IF_ERROR(store.read_at(file.path, chunk.offset, stored));
  const size_t bytes = ZSTD_decompress(out.data(), out.size(), stored.data(), stored.size());
  if (ZSTD_isError(bytes) == 0 && bytes == out.size()) return ok_status();
  return {Code::kDataLoss,
          name + " cannot be decompressed" +
              (ZSTD_isError(bytes) != 0 ? std::string(": ") + ZSTD_getErrorName(bytes)
                                        : ": it is too short")};
}

}  // namespace

std::vector<std::string> tensors_in(const Part& part, const Stream& stream, uint64_t i) {
  const uint64_t begin = i * stream.chunk_bytes;
  const uint64_t end = begin + stream.chunk_size(i);
  std::vector<std::string> names;
  for (const StoredPiece& piece : stream.pieces) {
    uint64_t bytes = dtype_bytes(part.tensors[piece.tensor].dtype);
    for (const int64_t extent : piece.extent) bytes *= static_cast<uint64_t>(extent);
    if (piece.offset >= end || piece.offset + bytes <= begin) continue;
    const std::string& name = part.tensors[piece.tensor].name;
    if (std::ranges::find(names, name) == names.end()) names.push_back(name);
  }
  return names;
}

Status read_chunk_into(Store& store, const Part& part, const Stream& stream, uint64_t i,
                       std::span<std::byte> out) {
  CONVOY_CHECK(i < stream.chunks.size() && out.size() == stream.chunk_size(i),
               "no such chunk, or a buffer of another size");
  const Chunk& chunk = stream.chunks[i];
  const File& file = part.files[chunk.file];
  const std::string name = chunk_name(part, stream, i);
  CONVOY_RETURN_IF_ERROR(chunk.codec == Codec::kZstd ? read_zstd(store, file, chunk, name, out)
                                                     : store.read_at(file.path, chunk.offset, out));
  if (xxh3(out) == chunk.checksum) return ok_status();
  return {Code::kDataLoss, name + " in " + store.name() + " does not match its checksum"};
}

Result<std::vector<std::byte>> read_chunk(Store& store, const Part& part, const Stream& stream,
                                          uint64_t i) {
  CONVOY_CHECK(i < stream.chunks.size(), "no such chunk");
  std::vector<std::byte> raw(stream.chunk_size(i));
  CONVOY_RETURN_IF_ERROR(read_chunk_into(store, part, stream, i, raw));
  return raw;
}

std::optional<std::vector<std::byte>> compress_chunk(std::span<const std::byte> raw, int level) {
  // A frame that is no shorter is of no use, so there is no room for it either.
  std::vector<std::byte> frame(raw.empty() ? 0 : raw.size() - 1);
  const size_t bytes = ZSTD_compress(frame.data(), frame.size(), raw.data(), raw.size(), level);
  if (ZSTD_isError(bytes) != 0) return std::nullopt;
  frame.resize(bytes);
  return frame;
}

Status Catalog::verify_part(const Part& part, const PartRef& ref, const Progress& progress,
                            VerifyReport& report) {
  std::vector<std::byte> raw;
  for (const Stream& stream : part.streams) {
    for (uint64_t i = 0; i < stream.chunks.size(); ++i) {
      raw.resize(stream.chunk_size(i));
      const Status status = read_chunk_into(store_, part, stream, i, raw);
      if (!status.ok()) {
        const Chunk& chunk = stream.chunks[i];
        report.bad.push_back({ref.path, stream.rank, i, part.files[chunk.file].path, chunk.offset,
                              status, tensors_in(part, stream, i)});
      }
      ++report.done.chunks;
      report.done.bytes += raw.size();
      if (progress && !progress(report.done)) {
        return {Code::kAborted, "the check of step " + std::to_string(part.step) + " was stopped"};
      }
    }
  }
  return ok_status();
}

Result<VerifyReport> Catalog::verify(uint64_t step, const Progress& progress) {
  CONVOY_ASSIGN_OR_RETURN(const Commit commit, load_commit(step));
  VerifyReport report;
  report.done.parts_total = commit.parts.size();
  for (const PartRef& ref : commit.parts) {
    const Result<Part> part = load_part(ref);
    if (part.ok()) {
      for (const Stream& stream : part->streams) report.done.chunks_total += stream.chunks.size();
      CONVOY_RETURN_IF_ERROR(verify_part(*part, ref, progress, report));
    } else {
      report.bad_parts.push_back(part.status());
    }
    ++report.done.parts;
  }
  return report;
}

}  // namespace convoy::ckpt
