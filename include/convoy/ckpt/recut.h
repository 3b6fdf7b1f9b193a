#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

// A committed step, written again for another number of ranks. Any mesh reads any step; this is for
// those that want a file a rank, with an even share of everything.
namespace convoy::ckpt {

struct RecutOptions {
  uint32_t ranks = 1;          // 1 … kRecutRanksMax
  std::string mesh;            // for the commit record
  std::optional<Dtype> dtype;  // float tensors become this type
  // Bytes read so far and in all; false stops (kAborted).
  std::function<bool(uint64_t done, uint64_t total)> progress;
};
inline constexpr uint32_t kRecutRanksMax = 1U << 17;  // parts of a step

struct Recut {
  uint64_t tensors = 0;
  uint64_t bytes = 0;            // of the new step's streams
  uint64_t least = 0, most = 0;  // of one rank's stream
};

// Commits the step with the same number, notes and tensors in the folder that `catalog` has taken
// over. Each rank becomes a node with a part and files of its own. A tensor is cut along its first
// dimension that has an index for each rank, by even_chunk(); smaller ones go whole to the rank
// that has least. Reads each byte once or, at the ranks' borders, twice; checksums are verified.
// Holds a few hundred MiB (tensor_reader.h). kDataLoss names a tensor that is damaged; nothing is
// committed then.
Result<Recut> recut(Store& from, const Commit& commit, Store& to, Catalog& catalog,
                    const RecutOptions& options);

}  // namespace convoy::ckpt
