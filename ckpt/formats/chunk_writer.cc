#include "ckpt/formats/chunk_writer.h"

#include <convoy/base/checksum.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kFileBytesMax = uint64_t{256} << 30;

}  // namespace

ChunkWriter::ChunkWriter(Store& store, const Catalog& catalog, Part& part)
    : store_(store), catalog_(catalog), part_(part) {
  chunk_.reserve(kChunkBytes);
}

Status ChunkWriter::append(std::span<const std::byte> bytes) {
  part_.streams[0].bytes += bytes.size();
  while (!bytes.empty()) {
    if (chunk_.empty() && bytes.size() >= kChunkBytes) {  // whole ones need no copy
      CONVOY_RETURN_IF_ERROR(write_chunk(bytes.first(kChunkBytes)));
      bytes = bytes.subspan(kChunkBytes);
      continue;
    }
    const size_t n = std::min(bytes.size(), kChunkBytes - chunk_.size());
    chunk_.insert(chunk_.end(), bytes.begin(), bytes.begin() + static_cast<ptrdiff_t>(n));
    bytes = bytes.subspan(n);
    if (chunk_.size() < kChunkBytes) continue;
    CONVOY_RETURN_IF_ERROR(write_chunk(chunk_));
    chunk_.clear();
  }
  return ok_status();
}

Status ChunkWriter::align() {
  const std::vector<std::byte> zeros(-part_.streams[0].bytes % kAlignment);
  return append(zeros);
}

Status ChunkWriter::finish() {
  if (!chunk_.empty()) CONVOY_RETURN_IF_ERROR(write_chunk(chunk_));
  chunk_.clear();
  return end_file();
}

Status ChunkWriter::write_chunk(std::span<const std::byte> chunk) {
  if (writer_ == nullptr) {
    const auto index = static_cast<uint32_t>(part_.files.size());
    part_.files.push_back({catalog_.data_path(part_.step, part_.node, index), 0});
    CONVOY_ASSIGN_OR_RETURN(writer_, store_.open_writer(part_.files.back().path));
  }
  File& file = part_.files.back();
  CONVOY_RETURN_IF_ERROR(writer_->append(chunk));
  part_.streams[0].chunks.push_back({static_cast<uint32_t>(part_.files.size() - 1), file.bytes,
                                     static_cast<uint32_t>(chunk.size()), Codec::kRaw,
                                     xxh3(chunk)});
  file.bytes += chunk.size();
  return file.bytes < kFileBytesMax ? ok_status() : end_file();
}

Status ChunkWriter::end_file() {
  if (writer_ == nullptr) return ok_status();
  CONVOY_RETURN_IF_ERROR(writer_->finish());
  writer_.reset();
  return ok_status();
}

}  // namespace convoy::ckpt
