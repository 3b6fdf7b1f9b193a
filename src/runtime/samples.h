#pragma once

#include <convoy/base/status.h>
#include <convoy/dataset/sampler.h>
#include <convoy/dataset/token_file.h>
#include <convoy/runtime/train_options.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <optional>
#include <vector>

namespace convoy::runtime {

// What a run trains and validates on: samples of seq + 1 tokens of one file, or of two.
class Samples {
 public:
  // kInvalidArgument if a file is too short for a batch.
  static Result<Samples> open(const TrainOptions& options, int64_t sequence, int64_t batch);

  // Of the next `batch` samples `count` from `begin` on, int64 [count, seq + 1].
  at::Tensor next(int64_t batch, int64_t begin, int64_t count);
  // Always the same ones, int64 [count, seq + 1].
  at::Tensor validation(int64_t begin, int64_t count) const;
  int64_t validation_count() const { return static_cast<int64_t>(validation_samples_); }

  // Which training samples come next; a checkpoint goes on from there. kMismatch: of other data, or
  // of another --seed, which would change the order.
  const dataset::SamplerState& position() const { return sampler_.state(); }
  Status go_to(const dataset::SamplerState& position);

  const dataset::TokenFileInfo& info() const { return train_.info(); }

 private:
  Samples(dataset::TokenFile train, std::optional<dataset::TokenFile> validation, int64_t sequence,
          uint64_t train_samples, uint64_t validation_first, uint64_t validation_samples,
          uint64_t seed);
  at::Tensor read(const dataset::TokenFile& file, const std::vector<uint64_t>& indices) const;

  dataset::TokenFile train_;
  std::optional<dataset::TokenFile> validation_;
  int64_t sequence_;
  uint64_t validation_first_;
  uint64_t validation_samples_;
  dataset::Sampler sampler_;
};

}  // namespace convoy::runtime
