#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace convoy::dataset {

// Everything that decides which samples come next. Integers only; write it down as text.
struct SamplerState {
  uint64_t samples = 0;  // in the data set; another number means another data set or length
  uint64_t seed = 0;
  uint64_t epoch = 0;
  uint64_t offset = 0;  // samples of this epoch that have been handed out, by all ranks together

  // One line of JSON, stable across versions.
  std::string to_text() const;
  // kInvalidArgument if the text is no sampler state.
  static Result<SamplerState> from_text(std::string_view text);
  bool operator==(const SamplerState&) const = default;
};

// The order in which samples are trained on: in each epoch every sample exactly once, in an order
// shuffled by (seed, epoch). The sequence of global batches depends on nothing else, in particular
// not on how many data-parallel ranks share them: after a change of their number in the middle of
// an epoch, no sample comes twice and none is left out. Every rank holds its own Sampler and makes
// the same calls. No table is stored: memory is constant for any number of samples. Not
// thread-safe.
class Sampler {
 public:
  // `samples` must be at least 1.
  Sampler(uint64_t samples, uint64_t seed);
  // Goes on from a saved state. kMismatch if it belongs to another number of samples.
  static Result<Sampler> restore(uint64_t samples, const SamplerState& state);

  const SamplerState& state() const { return state_; }

  // The next `global_batch` samples in order, across the end of an epoch where need be.
  std::vector<uint64_t> next(uint64_t global_batch);
  // Advances by `global_batch` and returns what rank `dp_rank` of `dp_size` has of it: a
  // consecutive share. Shares differ by at most one sample where global_batch is no multiple of
  // dp_size, larger ones first; then gradients must be weighted by the sizes (share_of).
  // kInvalidArgument if a rank would get nothing or the numbers are out of range; nothing advances.
  Result<std::vector<uint64_t>> next(uint64_t global_batch, uint64_t dp_rank, uint64_t dp_size);

 private:
  SamplerState state_;
};

// Part `index` of `count` consecutive, nearly equal parts of 0..total-1: [first, second).
std::pair<uint64_t, uint64_t> share_of(uint64_t total, uint64_t index, uint64_t count);

// Cuts a rank's samples into `count` micro-batches by share_of(), in order. kInvalidArgument if one
// would be empty.
Result<std::vector<std::vector<uint64_t>>> microbatches(std::span<const uint64_t> samples,
                                                        uint64_t count);

// A permutation of 0..size-1 chosen by (seed, epoch): a Feistel network over the next power of four
// that is walked until it lands inside (format-preserving encryption, Black and Rogaway 2002).
uint64_t permute(uint64_t index, uint64_t size, uint64_t seed, uint64_t epoch);

}  // namespace convoy::dataset
