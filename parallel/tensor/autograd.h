#pragma once

#include <ATen/core/Tensor.h>
#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/function.h>
#include <torch/csrc/autograd/functions/utils.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

namespace convoy::parallel {

// Backward of an operation written as a closure: gradients of the outputs (undefined = zero) ->
// gradients of the inputs given to `record` (undefined = none).
using Tensors = std::vector<at::Tensor>;
using Backward = std::function<Tensors(const Tensors& grads)>;

// An autograd node around a closure. Lighter than torch::autograd::Function where the backward
// needs arbitrary C++ state (groups, parameters).
class ClosureNode : public torch::autograd::Node {
 public:
  ClosureNode(const char* name, Backward backward) : name_(name), backward_(std::move(backward)) {}
  torch::autograd::variable_list apply(torch::autograd::variable_list&& grads) override {
    TORCH_CHECK(backward_, name_, ": backward ran twice through the same graph");
    return backward_(grads);
  }
  void release_variables() override { backward_ = nullptr; }
  std::string name() const override { return name_; }

 private:
  const char* name_;
  Backward backward_;
};

inline bool needs_graph(std::initializer_list<at::Tensor> inputs) {
  if (!at::GradMode::is_enabled()) return false;
  for (const at::Tensor& t : inputs)
    if (t.defined() && t.requires_grad()) return true;
  return false;
}

// Makes `outputs` (fresh tensors, computed without grad) the results of an operation on `inputs`.
// Call only if needs_graph(inputs). The closure must not hold `outputs` themselves (a cycle that is
// never freed): hold output.detach().
inline void record(const char* name, const Tensors& inputs, const Tensors& outputs,
                   Backward backward) {
  auto node = c10::make_intrusive<ClosureNode>(name, std::move(backward));
  torch::autograd::edge_list edges;
  edges.reserve(inputs.size());
  for (const at::Tensor& t : inputs)
    edges.push_back(t.defined() && t.requires_grad() ? torch::autograd::impl::gradient_edge(t)
                                                     : torch::autograd::Edge());
  node->set_next_edges(std::move(edges));
  for (const at::Tensor& t : outputs) torch::autograd::set_history(t, node);
}

}  // namespace convoy::parallel
