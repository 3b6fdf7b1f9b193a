#include "tests/model/reference_llama.h"

#include <ATen/ATen.h>
#include <torch/csrc/autograd/autograd.h>

#include <cmath>

namespace convoy::model::reference {
namespace {

at::Tensor norm(const at::Tensor& x, const at::Tensor& w, double eps) {
  return x / (x.pow(2).mean(-1, true) + eps).sqrt() * w;
}

// x: [batch, heads, seq, dim]; dimension i turns with dimension i + dim / 2.
at::Tensor rotate(const at::Tensor& x, double base) {
  const int64_t seq = x.size(2);
  const int64_t half = x.size(3) / 2;
  const at::Tensor frequency = at::pow(base, -at::arange(half, x.options()) / half);
  const at::Tensor angle = at::arange(seq, x.options()).unsqueeze(1) * frequency;
  const auto parts = x.chunk(2, -1);
  return at::cat({parts[0] * angle.cos() - parts[1] * angle.sin(),
                  parts[1] * angle.cos() + parts[0] * angle.sin()},
                 -1);
}

at::Tensor attention(const LlamaConfig& c, const at::Tensor& x, const at::Tensor& qkv) {
  const int64_t batch = x.size(0);
  const int64_t seq = x.size(1);
  const int64_t dim = c.head_dim();
  const auto heads = x.matmul(qkv.t()).view({batch, seq, -1, dim}).transpose(1, 2);
  const auto parts = heads.split_with_sizes({c.heads, c.kv_heads, c.kv_heads}, 1);
  const int64_t group = c.heads / c.kv_heads;
  const at::Tensor q = rotate(parts[0], c.rope_base);
  const at::Tensor k = rotate(parts[1], c.rope_base).repeat_interleave(group, 1);
  const at::Tensor v = parts[2].repeat_interleave(group, 1);
  const at::Tensor future = at::ones({seq, seq}, at::kBool).triu(1);
  const at::Tensor scores =
      (q.matmul(k.transpose(2, 3)) / std::sqrt(dim)).masked_fill(future, -INFINITY);
  return scores.softmax(-1).matmul(v).transpose(1, 2).reshape({batch, seq, -1});
}

}  // namespace

Result run(const LlamaConfig& c, const Tensors& weights, const at::Tensor& tokens,
           const at::Tensor& targets, double scale) {
  Tensors w;
  for (const auto& [name, value] : weights) w[name] = value.detach().clone().requires_grad_(true);
  at::Tensor x = w.at("embedding").index({tokens});
  for (int64_t i = 0; i < c.layers; ++i) {
    const std::string p = "layers." + std::to_string(i) + ".";
    const at::Tensor a = norm(x, w.at(p + "attn.norm"), c.norm_eps);
    x = x + attention(c, a, w.at(p + "attn.qkv")).matmul(w.at(p + "attn.out").t());
    const at::Tensor f = norm(x, w.at(p + "ffn.norm"), c.norm_eps);
    const auto gate_up = f.matmul(w.at(p + "ffn.gate_up").t()).chunk(2, -1);
    x = x + (gate_up[0] * gate_up[0].sigmoid() * gate_up[1]).matmul(w.at(p + "ffn.down").t());
  }
  const at::Tensor head = w.at(c.tied ? "embedding" : "head");
  const at::Tensor logits = norm(x, w.at("norm"), c.norm_eps).matmul(head.t());
  const at::Tensor picked =
      logits.log_softmax(-1).gather(-1, targets.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  Result result;
  result.loss = -(picked * targets.ge(0)).sum() * scale;
  torch::autograd::backward({result.loss}, {});
  for (const auto& [name, value] : w) result.grads[name] = value.grad();
  return result;
}

}  // namespace convoy::model::reference
