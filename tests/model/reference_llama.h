#pragma once

#include <convoy/model/llama.h>

#include <ATen/core/Tensor.h>

#include <map>
#include <string>

// The truth of the model tests: Llama on one rank in the plainest ATen calls with autograd, written
// from the paper's formulas, sharing no code with the layers. No dropout.
namespace convoy::model::reference {

using Tensors = std::map<std::string, at::Tensor>;

struct Result {
  at::Tensor loss;
  Tensors grads;  // by the parameters' global names
};

// `weights`: full parameters. tokens, targets: [batch, seq]; the loss is scale × Σ −log p.
Result run(const LlamaConfig& config, const Tensors& weights, const at::Tensor& tokens,
           const at::Tensor& targets, double scale);

}  // namespace convoy::model::reference
