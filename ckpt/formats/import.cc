// Pieces one behind the other, aligned, are the stream of one rank.
#include "ckpt/formats/chunk_writer.h"
#include "ckpt/formats/tensor_reader.h"
#include <convoy/ckpt/import.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kReadBytes = uint64_t{4} << 20;  // at a time
constexpr uint64_t kStreamBytesMax = kChunksMax * kChunkBytes;

uint64_t bytes_of(const ImportPiece& piece, const TensorInfo& tensor) {
  uint64_t bytes = dtype_bytes(tensor.dtype);
  for (const int64_t size : piece.extent) bytes *= static_cast<uint64_t>(size);
  return bytes;
}

Status check_size(const ImportSource& source) {
  uint64_t bytes = 0;
  for (const ImportPiece& piece : source.pieces()) {
    bytes += std::min(kStreamBytesMax, bytes_of(piece, source.tensors()[piece.tensor])) +
             ChunkWriter::kAlignment;
    if (bytes > kStreamBytesMax) break;
  }
  if (source.tensors().size() <= kTensorsMax && bytes <= kStreamBytesMax) return ok_status();
  return {Code::kInvalidArgument, source.files().front() +
                                      " has too many tensors or bytes for one import: at most " +
                                      std::to_string(kTensorsMax) + " and 4 TiB."};
}

}  // namespace

uint64_t ImportSource::bytes() const {
  uint64_t bytes = 0;
  for (const ImportPiece& piece : pieces_) bytes += bytes_of(piece, tensors_[piece.tensor]);
  return bytes;
}

Status import_step(ImportSource& source, Store& store, Catalog& catalog, uint64_t step,
                   const ByteProgress& progress) {
  CONVOY_RETURN_IF_ERROR(check_size(source));
  CONVOY_ASSIGN_OR_RETURN(const std::optional<Owner> owner, catalog.owner());
  Part part{step, 0, owner ? owner->generation : 0, source.tensors(), {}, {}};
  Stream& stream = part.streams.emplace_back();
  ChunkWriter writer(store, catalog, part);
  const uint64_t total = source.bytes();
  uint64_t done = 0;
  std::vector<std::byte> buffer;
  for (size_t i = 0; i < source.pieces().size(); ++i) {
    const ImportPiece& piece = source.pieces()[i];
    CONVOY_RETURN_IF_ERROR(writer.align());
    stream.pieces.push_back({piece.tensor, piece.begin, piece.extent, stream.bytes});
    const uint64_t bytes = bytes_of(piece, source.tensors()[piece.tensor]);
    for (uint64_t at = 0; at < bytes; at += buffer.size()) {
      buffer.resize(std::min(kReadBytes, bytes - at));
      CONVOY_RETURN_IF_ERROR(source.read(i, at, buffer));
      CONVOY_RETURN_IF_ERROR(writer.append(buffer));
      done += buffer.size();
      if (progress && !progress(done, total)) return {Code::kAborted, "the import was stopped"};
    }
  }
  CONVOY_RETURN_IF_ERROR(writer.finish());
  Commit head;
  head.step = step;
  head.world_size = 1;
  CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
  CommitBuilder builder(std::move(head));
  CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  return catalog.commit(std::move(builder).finish());
}

}  // namespace convoy::ckpt
