#pragma once

#include "tests/parallel/truth/cells.h"
#include <convoy/runtime/trainer.h>

#include <ATen/core/Tensor.h>

#include <map>
#include <string>
#include <vector>

namespace convoy::truth {

inline constexpr int kSteps = 3;

// What one process computes for a model: the loss, the gradient norm and all gradients of every
// step, and the parameters after the last.
struct Reference {
  std::vector<double> loss, norm;
  std::vector<std::map<std::string, at::Tensor>> grads;  // [step], full tensors by global name
  std::map<std::string, at::Tensor> params;
};

// The trainer's options of a cell. Sizes are awkward on purpose: vocabulary 67, sequence 13,
// feed-forward 37, 6 heads over 2 key/value heads (10 over 5 where tp is 8), one layer more than
// stages.
runtime::TrainerOptions options_of(const Cell& cell);
// The whole batch of a step, int64 [batch, seq + 1]; the same on all ranks.
at::Tensor batch_of(const runtime::TrainerOptions& options, int step);
// Computed once for each model and kept. Without dropout by tests/model/reference_llama and
// textbook AdamW, which share no code with the product; with dropout by the trainer on one rank,
// since the dropped elements are the product's choice.
const Reference& reference_of(const Cell& cell);

}  // namespace convoy::truth
