#pragma once

#include "ckpt/restore/convert.h"
#include "ckpt/restore/part_homes.h"

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

namespace convoy::ckpt {

// Bytes of a stream that go to one place: `count` runs of `bytes`, run i from from + i·stride to
// to + i·to_stride.
struct Move {
  uint64_t from = 0;  // in the stream
  uint64_t bytes = 0;
  uint64_t count = 1;
  uint64_t stride = 0;  // ≥ bytes, but where count is 1
  std::byte* to = nullptr;
  ptrdiff_t to_stride = 0;
  uint32_t tensor = 0;  // of the wanted state

  // The first run that ends behind `position` of the stream.
  uint64_t first_run(uint64_t position) const {
    return count == 1 || position < from + bytes ? 0 : (position - from - bytes) / stride + 1;
  }
};

// How a tensor's elements change on the way.
struct Element {
  Convert convert = nullptr;  // null: they don't
  uint32_t from_bytes = 1;
  uint32_t to_bytes = 1;
};

// A stream that has something to give.
struct StreamPlan {
  uint32_t part = 0;    // of the source's commit record
  uint32_t stream = 0;  // of the part
  const Stream* record = nullptr;
  std::vector<Move> moves;
};

// A chunk to read, and which of its stream's moves take from it: uses[first_use …).
struct ChunkWork {
  ChunkId id;
  uint32_t stream = 0;  // index into LoadPlan::streams
  uint32_t uses = 0;
  uint64_t first_use = 0;
};

struct LoadPlan {
  std::vector<Element> elements;  // one for each wanted tensor, as the names
  std::vector<std::string> tensor_names;
  std::vector<StreamPlan> streams;
  std::vector<ChunkWork> chunks;  // in the order in which they lie in files
  std::vector<uint32_t> uses;     // indices into StreamPlan::moves
  uint64_t bytes_wanted = 0;

  const StreamPlan& stream_of(const ChunkWork& work) const { return streams[work.stream]; }
  uint32_t size_of(const ChunkWork& work) const {
    return stream_of(work).record->chunk_size(work.id.chunk);
  }
  const Chunk& chunk_of(const ChunkWork& work) const {
    return stream_of(work).record->chunks[work.id.chunk];
  }
  // Where the whole chunk goes, if it goes to one dense place as it is; else null.
  std::byte* dense_destination(const ChunkWork& work) const;
};

// What to read, and where it goes. Loads the parts that hold wanted tensors; fails as load() does
// before anything is read. `report` gets what is missing and the bytes that are wanted.
Result<LoadPlan> plan_load(PartHomes& homes, const State& wanted, const LoadOptions& options,
                           LoadReport& report);

}  // namespace convoy::ckpt
