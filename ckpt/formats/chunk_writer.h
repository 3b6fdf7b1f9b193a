#pragma once

#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace convoy::ckpt {

// Cuts a stream that comes in pieces of any size into raw chunks, and those into files of the
// part's step and node. Appends to part.streams[0], which must be there, and to part.files. All
// must outlive the writer.
class ChunkWriter {
 public:
  static constexpr uint64_t kAlignment = 64;  // of align()

  ChunkWriter(Store& store, const Catalog& catalog, Part& part);

  Status append(std::span<const std::byte> bytes);
  // Zeros up to the next multiple of kAlignment.
  Status align();
  // The files are durable once this is ok.
  Status finish();

 private:
  Status write_chunk(std::span<const std::byte> chunk);
  Status end_file();

  Store& store_;
  const Catalog& catalog_;
  Part& part_;
  std::unique_ptr<StoreWriter> writer_;
  std::vector<std::byte> chunk_;
};

}  // namespace convoy::ckpt
