#pragma once

#include <convoy/ckpt/scrub.h>

#include <string>
#include <utility>
#include <vector>

namespace convoy::ckpt {

// Chunk `chunk` of stream `stream` of a part.
struct ChunkPlace {
  const Stream* stream = nullptr;
  uint64_t chunk = 0;
};

// Writes `part`'s file `file` once more, with the bad chunks from menders and all else as it is.
// Replaces it only if at least one chunk could be mended; says how many could not.
Result<uint64_t> mend_file(Store& store, const Part& part, uint32_t file,
                           std::vector<ChunkPlace> bad, const std::vector<Mender*>& menders);

// The part of that reference, from a mender, put in its place.
Status mend_part(Store& store, const PartRef& ref, const std::vector<Mender*>& menders);

}  // namespace convoy::ckpt
