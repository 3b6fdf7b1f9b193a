#include "ckpt/service/part_builder.h"

#include <algorithm>

namespace convoy::ckpt {
namespace {

// Below what object stores take in parts of 10 MiB (10,000 of them).
constexpr uint64_t kFileBytesMax = uint64_t{32} << 30;

}  // namespace

PartBuilder::PartBuilder(Part& part) : part_(part) {
  for (uint32_t i = 0; i < part.files.size(); ++i) files_[part.files[i].path] = i;
}

Result<uint32_t> PartBuilder::tensor(const TensorInfo& info) {
  const auto [at, is_new] =
      tensors_.try_emplace(info.name, static_cast<uint32_t>(part_.tensors.size()));
  if (is_new) {
    part_.tensors.push_back(info);
  } else if (!(part_.tensors[at->second] == info)) {
    return Status(Code::kMismatch, "two ranks disagree on the dtype or global shape of tensor " +
                                       info.name + "; nothing is written");
  }
  return at->second;
}

uint32_t PartBuilder::file(const std::string& path, uint64_t bytes) {
  const auto [at, is_new] = files_.try_emplace(path, static_cast<uint32_t>(part_.files.size()));
  if (is_new) part_.files.push_back({path, bytes});
  return at->second;
}

Status PartBuilder::adopt(const Part& from, Stream& stream) {
  for (const TensorInfo& info : from.tensors) CONVOY_RETURN_IF_ERROR(tensor(info).status());
  for (StoredPiece& piece : stream.pieces) {
    CONVOY_ASSIGN_OR_RETURN(piece.tensor, tensor(from.tensors[piece.tensor]));
  }
  return ok_status();
}

const Stream* stream_of(const Part& part, uint32_t rank) {
  const auto at = std::ranges::find(part.streams, rank, &Stream::rank);
  return at == part.streams.end() ? nullptr : &*at;
}

bool same_chunk(const Stream& now, const Stream* before, uint64_t i) {
  return before != nullptr && before->chunk_bytes == now.chunk_bytes && i < before->chunks.size() &&
         before->chunk_size(i) == now.chunk_size(i) &&
         before->chunks[i].checksum == now.chunks[i].checksum;
}

Status write_chunks(const ChunkTarget& target, const ReadChunk& read, const Part& last, bool refer,
                    PartBuilder& builder, Stream& stream) {
  struct NewFile {
    std::string path;
    uint64_t bytes = 0;
    std::vector<uint64_t> chunks;
  };
  std::vector<NewFile> files;
  std::unique_ptr<StoreWriter> writer;
  const Stream* const before = refer ? stream_of(last, stream.rank) : nullptr;
  for (uint64_t i = 0; i < stream.chunks.size(); ++i) {
    Chunk& chunk = stream.chunks[i];
    if (same_chunk(stream, before, i)) {
      chunk = before->chunks[i];
      const File& file = last.files[before->chunks[i].file];
      chunk.file = builder.file(file.path, file.bytes);
    } else {
      if (writer == nullptr) {
        files.push_back({target.next_path(), 0, {}});
        CONVOY_ASSIGN_OR_RETURN(writer, target.store.open_writer(files.back().path));
      }
      CONVOY_ASSIGN_OR_RETURN(const std::span<const std::byte> raw, read(i));
      const auto frame = target.compress > 0 ? compress_chunk(raw, target.compress) : std::nullopt;
      const std::span<const std::byte> stored = frame ? std::span(*frame) : raw;
      CONVOY_RETURN_IF_ERROR(writer->append(stored));
      NewFile& file = files.back();
      chunk = {0, file.bytes, static_cast<uint32_t>(stored.size()),
               frame ? Codec::kZstd : Codec::kRaw, chunk.checksum};
      file.chunks.push_back(i);
      file.bytes += stored.size();
    }
    if (target.progress) CONVOY_RETURN_IF_ERROR(target.progress(stream.chunk_size(i)));
    if (writer != nullptr && files.back().bytes >= kFileBytesMax) {
      CONVOY_RETURN_IF_ERROR(writer->finish());
      writer.reset();
    }
  }
  if (writer != nullptr) CONVOY_RETURN_IF_ERROR(writer->finish());
  for (const NewFile& file : files) {  // their sizes are known now
    const uint32_t index = builder.file(file.path, file.bytes);
    for (const uint64_t i : file.chunks) stream.chunks[i].file = index;
  }
  return ok_status();
}

}  // namespace convoy::ckpt
