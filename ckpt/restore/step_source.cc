// What all sources share: parts that are loaded once, the comparison with the checksum.
#include "ckpt/io/copy_checksum.h"
#include "ckpt/restore/verify.h"
#include <convoy/ckpt/step_source.h>

#include <utility>

namespace convoy::ckpt {

StepSource::StepSource(std::string name, Commit commit)
    : name_("step " + std::to_string(commit.step) + " in " + std::move(name)),
      commit_(std::move(commit)),
      parts_(commit_.parts.size()) {}

Result<const Part*> StepSource::part(uint32_t index) {
  CONVOY_CHECK(index < commit_.parts.size(), "no such part");
  {
    const std::lock_guard lock(mutex_);
    if (parts_[index] != nullptr) return parts_[index].get();
  }
  Result<Part> part = load_part(index);
  if (!part.ok()) {
    // The commit record says that it is there: missing is damaged.
    const Code code =
        part.status().code() == Code::kNotFound ? Code::kDataLoss : part.status().code();
    return Status(code, part.status().message()).with_context(name_);
  }
  const std::lock_guard lock(mutex_);
  if (parts_[index] == nullptr) {
    parts_[index] = std::make_unique<const Part>(std::move(part).value());
  }
  return parts_[index].get();
}

const Part& StepSource::loaded(uint32_t index) const {
  const std::lock_guard lock(mutex_);
  CONVOY_CHECK(index < parts_.size() && parts_[index] != nullptr,
               "a chunk of a part that was not loaded");
  return *parts_[index];
}

const std::byte* StepSource::view(const ChunkId& /*id*/) const {
  return nullptr;
}

std::string StepSource::place(const ChunkId& id) const {
  const Part& part = loaded(id.part);
  const Chunk& chunk = part.streams[id.stream].chunks[id.chunk];
  return part.files[chunk.file].path + " at " + std::to_string(chunk.offset);
}

uint64_t checksum_of(std::span<const std::byte> raw) {
  const CopyKernel& kernel = copy_kernel();
  HashState state;
  kernel.begin(state);
  kernel.add(state, nullptr, reinterpret_cast<const char*>(raw.data()), raw.size());
  return kernel.digest(state);
}

uint64_t copy_with_checksum(std::byte* to, std::span<const std::byte> raw) {
  const CopyKernel& kernel = copy_kernel();
  HashState state;
  kernel.begin(state);
  kernel.add(state, reinterpret_cast<char*>(to), reinterpret_cast<const char*>(raw.data()),
             raw.size());
  kernel.fence();
  return kernel.digest(state);
}

Status compare(const StepSource& source, const ChunkId& id, const Stream& stream,
               uint64_t checksum) {
  if (checksum == stream.chunks[id.chunk].checksum) return ok_status();
  return {Code::kDataLoss, "chunk " + std::to_string(id.chunk) + " of rank " +
                               std::to_string(stream.rank) + ", " + source.place(id) +
                               ", does not match its checksum: it is not what was saved"};
}

Status verify_chunk(const StepSource& source, const ChunkId& id, const Stream& stream,
                    const std::byte* raw) {
  return compare(source, id, stream, checksum_of({raw, stream.chunk_size(id.chunk)}));
}

}  // namespace convoy::ckpt
