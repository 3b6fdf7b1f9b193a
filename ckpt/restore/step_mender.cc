// The same chunk of the same stream, from files that were cut in another way.
#include <convoy/base/checksum.h>
#include <convoy/ckpt/scrub.h>

#include <algorithm>

namespace convoy::ckpt {
namespace {

struct Found {
  ChunkId id;
  uint64_t stored_bytes = 0;
};

// kNotFound if the source has no such chunk.
Result<Found> find_chunk(StepSource& source, const Stream& wanted, uint64_t i) {
  const Chunk& chunk = wanted.chunks[i];
  for (uint32_t p = 0; p < source.commit().parts.size(); ++p) {
    const Result<const Part*> part = source.part(p);
    if (!part.ok()) continue;
    for (uint32_t s = 0; s < (*part)->streams.size(); ++s) {
      const Stream& stream = (*part)->streams[s];
      if (stream.rank != wanted.rank || stream.bytes != wanted.bytes ||
          stream.chunk_bytes != wanted.chunk_bytes || stream.chunks[i].checksum != chunk.checksum) {
        continue;
      }
      return Found{{p, s, i}, stream.chunks[i].bytes};
    }
  }
  return Status(Code::kNotFound, source.name() + " has no such chunk");
}

}  // namespace

Result<std::unique_ptr<StepSource>> open_step(Store& store, uint64_t step) {
  CONVOY_ASSIGN_OR_RETURN(Commit commit, Catalog(store).load_commit(step));
  return std::unique_ptr<StepSource>(std::make_unique<StoreSource>(store, std::move(commit)));
}

Result<std::vector<std::byte>> StepMender::record(const std::string& path) {
  return Status(Code::kNotFound, name_ + " has files of its own, and no " + path);
}

Status StepMender::chunk(const Part& part, const Stream& stream, uint64_t i,
                         std::span<std::byte> stored) {
  if (stream.chunks[i].codec != Codec::kRaw) {
    return {Code::kNotFound, "a compressed chunk is mended from a copy of the folder only"};
  }
  if (source_ == nullptr && failed_.ok()) {
    Result<std::unique_ptr<StepSource>> opened = open_(part.step);
    if (opened.ok()) source_ = std::move(opened).value();
    failed_ = opened.status();
  }
  CONVOY_RETURN_IF_ERROR(failed_);
  CONVOY_ASSIGN_OR_RETURN(const Found found, find_chunk(*source_, stream, i));
  // Shared: a source may keep what it reads into, if it gives up waiting.
  const auto memory = std::make_shared<std::vector<std::byte>>(stored.size() + found.stored_bytes);
  ChunkRead read{found.id, memory->data(), memory->data() + stored.size(), {}};
  source_->read({&read, 1}, memory);
  CONVOY_RETURN_IF_ERROR(read.status);
  std::copy_n(memory->begin(), stored.size(), stored.begin());
  return ok_status();
}

}  // namespace convoy::ckpt
