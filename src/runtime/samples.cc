// Which samples are for training and which for validation, and how they become tensors.
#include "src/runtime/samples.h"

#include <ATen/ops/empty.h>

#include <algorithm>
#include <numeric>
#include <span>

namespace convoy::runtime {
namespace {

// Without a validation file, the last samples of the training file: one in so many.
constexpr uint64_t kValidationPart = 20;

}  // namespace

Samples::Samples(dataset::TokenFile train, std::optional<dataset::TokenFile> validation,
                 int64_t sequence, uint64_t train_samples, uint64_t validation_first,
                 uint64_t validation_samples, uint64_t seed)
    : train_(std::move(train)),
      validation_(std::move(validation)),
      sequence_(sequence),
      validation_first_(validation_first),
      validation_samples_(validation_samples),
      sampler_(train_samples, seed) {}

Result<Samples> Samples::open(const TrainOptions& options, int64_t sequence, int64_t batch) {
  const auto seq = static_cast<uint64_t>(sequence);
  CONVOY_ASSIGN_OR_RETURN(dataset::TokenFile train, dataset::TokenFile::open(options.data));
  CONVOY_ASSIGN_OR_RETURN(const uint64_t count, dataset::sample_count(train, seq));
  uint64_t training = count;
  uint64_t first = 0;
  uint64_t validating = 0;
  std::optional<dataset::TokenFile> validation;
  if (options.validation.empty()) {
    validating = count / kValidationPart;
    training = count - validating;
    first = training;
  } else {
    CONVOY_ASSIGN_OR_RETURN(dataset::TokenFile file, dataset::TokenFile::open(options.validation));
    CONVOY_ASSIGN_OR_RETURN(validating, dataset::sample_count(file, seq));
    if (file.info().tokenizer != train.info().tokenizer) {
      return Status(Code::kInvalidArgument,
                    options.validation + " holds tokens of the tokenizer \"" +
                        file.info().tokenizer + "\", but " + options.data + " of \"" +
                        train.info().tokenizer + "\"; prepare both with the same one.");
    }
    validation.emplace(std::move(file));
  }
  if (training < static_cast<uint64_t>(batch)) {
    return Status(Code::kInvalidArgument,
                  options.data + " holds " + std::to_string(training) + " training samples of " +
                      std::to_string(sequence) + " tokens, fewer than one batch of " +
                      std::to_string(batch) +
                      "; take a longer text, or a smaller --batch or --sequence.");
  }
  return Samples(std::move(train), std::move(validation), sequence, training, first, validating,
                 options.seed);
}

at::Tensor Samples::read(const dataset::TokenFile& file,
                         const std::vector<uint64_t>& indices) const {
  const int64_t width = sequence_ + 1;
  at::Tensor out = at::empty({static_cast<int64_t>(indices.size()), width}, at::kLong);
  auto* row = out.mutable_data_ptr<int64_t>();
  for (const uint64_t index : indices) {
    dataset::read_sample(file, index, std::span(row, static_cast<size_t>(width)));
    row += width;
  }
  return out;
}

at::Tensor Samples::next(int64_t batch, int64_t begin, int64_t count) {
  const std::vector<uint64_t> all = sampler_.next(static_cast<uint64_t>(batch));
  return read(train_, {all.begin() + begin, all.begin() + begin + count});
}

Status Samples::go_to(const dataset::SamplerState& position) {
  const uint64_t seed = sampler_.state().seed;
  if (position.seed != seed) {
    return {Code::kMismatch, "the checkpoint was made with --seed " +
                                 std::to_string(position.seed) + ", not " + std::to_string(seed) +
                                 ": the order of the samples would change"};
  }
  const auto restored = dataset::Sampler::restore(sampler_.state().samples, position);
  if (!restored.ok()) return restored.status();
  sampler_ = *restored;
  return ok_status();
}

at::Tensor Samples::validation(int64_t begin, int64_t count) const {
  std::vector<uint64_t> indices(static_cast<size_t>(count));
  std::iota(indices.begin(), indices.end(), validation_first_ + static_cast<uint64_t>(begin));
  return read(validation_ ? *validation_ : train_, indices);
}

}  // namespace convoy::runtime
