// Full recompute: a block of layers as one autograd node that keeps only the block's inputs.
#include "parallel/tensor/autograd.h"
#include <convoy/parallel/tensor/ops.h>

#include <torch/csrc/autograd/autograd.h>

namespace convoy::parallel {

std::vector<at::Tensor> checkpoint(
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)> block,
    const std::vector<at::Tensor>& inputs) {
  bool graph = false;
  for (const at::Tensor& t : inputs) graph = graph || needs_graph({t});
  if (!graph) return block(inputs);

  Tensors kept;
  for (const at::Tensor& t : inputs) kept.push_back(t.defined() ? t.detach() : t);
  Tensors outputs;
  {
    at::NoGradGuard no_grad;
    for (const at::Tensor& t : block(kept)) outputs.push_back(t.variable_data());
  }
  record("checkpoint", inputs, outputs, [block, kept](const Tensors& grads) -> Tensors {
    at::AutoGradMode enable(true);
    Tensors leaves, produced, incoming;
    for (const at::Tensor& t : kept)
      leaves.push_back(t.defined() ? t.detach().requires_grad_(true) : t);
    const Tensors again = block(leaves);
    for (size_t i = 0; i < again.size(); ++i) {
      if (!grads[i].defined() || !again[i].requires_grad()) continue;
      produced.push_back(again[i]);
      incoming.push_back(grads[i]);
    }
    // Not autograd::grad: it would skip the paths that end in parameters only.
    torch::autograd::backward(produced, incoming);
    Tensors out;
    for (const at::Tensor& leaf : leaves) out.push_back(leaf.defined() ? leaf.grad() : leaf);
    return out;
  });
  return outputs;
}

}  // namespace convoy::parallel
