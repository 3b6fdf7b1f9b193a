#pragma once

#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>

// What the tiers share in writing a step: the part that grows, and the chunks that have changed.
namespace convoy::ckpt {

// So many steps may refer to earlier ones before one is written whole again: else a few unchanged
// chunks would keep large old files for ever.
inline constexpr size_t kIncrementalMax = 15;

// A part that grows rank by rank. `part` must outlive it.
class PartBuilder {
 public:
  explicit PartBuilder(Part& part);
  // The tensor's index. kMismatch if two ranks disagree on it.
  Result<uint32_t> tensor(const TensorInfo& info);
  uint32_t file(const std::string& path, uint64_t bytes);
  // Adds the tensors of a rank's part, empty ones too, and lets the stream's pieces tell of them.
  Status adopt(const Part& from, Stream& stream);

 private:
  Part& part_;
  std::map<std::string, uint32_t> tensors_, files_;
};

// The rank's stream; null if the part has none.
const Stream* stream_of(const Part& part, uint32_t rank);

// Whether chunk `i` of `now` is what `before` (may be null) has there. Checksums decide: 64 bits of
// XXH3 over 256 KiB that training wrote, not an adversary.
bool same_chunk(const Stream& now, const Stream* before, uint64_t i);

// Where and how the chunks of a stream go into a store.
struct ChunkTarget {
  Store& store;
  std::function<std::string()> next_path;  // of one more file
  int compress = 0;                        // zstd level; 0: raw
  // Called with the raw bytes of each chunk; a failure stops the writing.
  std::function<Status(uint64_t)> progress = {};
};
// The raw bytes of chunks, in ascending order; good until the next call.
using ReadChunk = std::function<Result<std::span<const std::byte>>(uint64_t chunk)>;

// Writes the chunks of `stream` that `last` does not have at the same place (if `refer`), each
// compressed where that makes it shorter, and tells in the stream where all of them lie. The files
// are durable once this is ok. Memory: a chunk, and what the store's writer needs.
Status write_chunks(const ChunkTarget& target, const ReadChunk& read, const Part& last, bool refer,
                    PartBuilder& builder, Stream& stream);

}  // namespace convoy::ckpt
