// Damaged files, written again from what is whole.
#include "ckpt/restore/mend.h"

#include <convoy/base/checksum.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

constexpr uint64_t kCopyBytes = uint64_t{4} << 20;

const Chunk& chunk_of(const ChunkPlace& place) {
  return place.stream->chunks[place.chunk];
}

// What lies in the file already. What can't be read belongs to chunks of other steps, whose own
// scrub mends them, or to nobody.
Status keep(Store& store, const std::string& path, uint64_t begin, uint64_t end,
            StoreWriter& writer) {
  std::vector<std::byte> bytes;
  for (uint64_t at = begin; at < end; at += bytes.size()) {
    bytes.assign(std::min(kCopyBytes, end - at), std::byte{0});
    (void)store.read_at(path, at, bytes).ok();
    CONVOY_RETURN_IF_ERROR(writer.append(bytes));
  }
  return ok_status();
}

bool find_chunk(const Part& part, const ChunkPlace& place, const std::vector<Mender*>& menders,
                std::span<std::byte> stored) {
  return std::ranges::any_of(menders, [&](Mender* mender) {
    return mender->chunk(part, *place.stream, place.chunk, stored).ok();
  });
}

}  // namespace

Result<uint64_t> mend_file(Store& store, const Part& part, uint32_t file,
                           std::vector<ChunkPlace> bad, const std::vector<Mender*>& menders) {
  const File& target = part.files[file];
  std::ranges::sort(bad, {}, [](const ChunkPlace& place) { return chunk_of(place).offset; });
  CONVOY_ASSIGN_OR_RETURN(const auto writer, store.open_writer(target.path));
  uint64_t at = 0, lost = 0;
  std::vector<std::byte> stored;
  for (const ChunkPlace& place : bad) {
    const Chunk& chunk = chunk_of(place);
    if (chunk.offset < at) continue;  // two streams refer to it
    CONVOY_RETURN_IF_ERROR(keep(store, target.path, at, chunk.offset, *writer));
    stored.resize(chunk.bytes);
    if (find_chunk(part, place, menders, stored)) {
      CONVOY_RETURN_IF_ERROR(writer->append(stored));
    } else {
      ++lost;
      CONVOY_RETURN_IF_ERROR(
          keep(store, target.path, chunk.offset, chunk.offset + chunk.bytes, *writer));
    }
    at = chunk.offset + chunk.bytes;
  }
  if (lost == bad.size()) return lost;
  CONVOY_RETURN_IF_ERROR(keep(store, target.path, at, target.bytes, *writer));
  CONVOY_RETURN_IF_ERROR(writer->finish());
  return lost;
}

Status mend_part(Store& store, const PartRef& ref, const std::vector<Mender*>& menders) {
  for (Mender* mender : menders) {
    const auto bytes = mender->record(ref.path);
    if (!bytes.ok() || bytes->size() != ref.bytes || xxh3(*bytes) != ref.checksum) continue;
    return store.put(ref.path, *bytes);
  }
  return {Code::kDataLoss, ref.path + " is damaged, and no other copy has it whole"};
}

Status mend_commit(Store& store, const StepInfo& info, const std::vector<Mender*>& menders) {
  for (Mender* mender : menders) {
    const auto bytes = mender->record(info.path);
    if (!bytes.ok()) continue;
    const auto commit = decode_commit(*bytes, mender->name() + "/" + info.path);
    if (!commit.ok() || commit->step != info.key.step || commit->claim != info.key.claim) continue;
    return store.put(info.path, *bytes);
  }
  return {Code::kDataLoss, info.status.message() + " No other copy has it whole."};
}

Result<std::vector<std::byte>> StoreMender::record(const std::string& path) {
  return store_.get(path, kRecordBytesMax);
}

Status StoreMender::chunk(const Part& part, const Stream& stream, uint64_t i,
                          std::span<std::byte> stored) {
  // Proves the bytes, and for a compressed chunk that they can be decompressed.
  std::vector<std::byte> raw(stream.chunk_size(i));
  CONVOY_RETURN_IF_ERROR(read_chunk_into(store_, part, stream, i, raw));
  const Chunk& chunk = stream.chunks[i];
  if (chunk.codec == Codec::kRaw) {
    std::ranges::copy(raw, stored.begin());
    return ok_status();
  }
  return store_.read_at(part.files[chunk.file].path, chunk.offset, stored);
}

}  // namespace convoy::ckpt
