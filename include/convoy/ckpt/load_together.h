#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/restore.h>

#include <cstddef>
#include <vector>

// Several ranks load one step at once, and read each chunk once among them.
namespace convoy::ckpt {

// What ranks that load together talk through: collectives over byte vectors. All ranks call the
// same ones in the same order; one thread at a time. A call blocks for the others, with the group's
// own deadline; its failure names who is missing and ends the load on this rank.
class Exchange {
 public:
  using Bytes = std::vector<std::byte>;
  virtual ~Exchange() = default;
  virtual int rank() const = 0;
  virtual int size() const = 0;
  // What each rank gave, by rank.
  virtual Result<std::vector<Bytes>> all_gather(Bytes mine) = 0;
  // to[r] goes to rank r (empty: nothing; to this rank itself it is always empty); result[r] came
  // from rank r. Sizes are not known to the receiver before.
  virtual Result<std::vector<Bytes>> all_to_all(std::vector<Bytes> to) = 0;
};

// What a rank sends, and what it receives, in one round at most: more makes nothing faster, and the
// first touch of the memory costs more than the copies.
inline constexpr size_t kRoundBytesMax = size_t{4} << 20;

// load() on all ranks of `exchange` at once. Each rank gives its own `wanted` and its own source of
// the same step (kMismatch if the steps or their parts differ). Ranks tell each other which chunks
// they want; a chunk that several want is read and verified by one of them, bytes evenly spread,
// and sent to the others in rounds; while a round is sent, the next one is read. Options may
// differ from rank to rank, but for staging_bytes_max, the least of which counts: on each rank,
// what is read ahead, sent and received in a round stays within it, unless a single chunk for all
// that want it is more. kInvalidArgument if a sixth of it has no room for a chunk.
//
// A failure of one rank is a failure of all, with the same code and text, which names the rank;
// those that don't know of it before they have written leave undefined content behind. The report
// is this rank's.
Status load_together(StepSource& source, const State& wanted, Exchange& exchange,
                     const LoadOptions& options = {}, LoadReport* report = nullptr);

}  // namespace convoy::ckpt
