// Causal self-attention as one autograd operation on the packed projection: the kernels rotate,
// attend and unpack without transposed copies. Other dtypes and devices go through ATen's
// scaled_dot_product_attention.
#include "parallel/tensor/autograd.h"
#include "parallel/tensor/kernels.h"
#include "parallel/tensor/threads.h"
#include <convoy/parallel/tensor/ops.h>

#include <ATen/ops/arange.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/scaled_dot_product_attention.h>
#include <ATen/ops/tensor.h>

#include <cmath>

namespace convoy::parallel {
namespace {

struct AttentionState {
  at::Tensor qkv, out, lse;  // out and lse: undefined while they are to be recomputed
  std::vector<int64_t> kv_of_q;
  RotaryTables rotary;
  kernels::AttentionShape shape;
};

void compute(AttentionState& s) {
  const kernels::AttentionShape& shape = s.shape;
  const auto options = s.qkv.options();
  s.out = at::empty({shape.seq, shape.batch, shape.q_heads * shape.head_dim}, options);
  s.lse = at::empty({shape.batch, shape.q_heads, shape.seq}, options);
  dispatch_real(s.qkv, [&]<class T>(T) {
    parallel_rows(
        shape.batch * shape.kv_heads, shape.seq * shape.seq, [&](int64_t begin, int64_t end) {
          kernels::attention(shape, ptr<T>(s.qkv), ptr<T>(s.rotary.cos), ptr<T>(s.rotary.sin),
                             begin, end, ptr<T>(s.out), ptr<T>(s.lse));
        });
  });
}

at::Tensor compute_backward(AttentionState& s, const at::Tensor& dout_in) {
  if (!s.out.defined()) compute(s);
  const at::Tensor dout = dout_in.contiguous();
  at::Tensor dqkv = at::empty_like(s.qkv);
  const kernels::AttentionShape& shape = s.shape;
  dispatch_real(s.qkv, [&]<class T>(T) {
    parallel_rows(shape.batch * shape.kv_heads, shape.seq * shape.seq,
                  [&](int64_t begin, int64_t end) {
                    kernels::attention_backward(shape, ptr<T>(dout), ptr<T>(s.qkv), ptr<T>(s.out),
                                                ptr<T>(s.lse), ptr<T>(s.rotary.cos),
                                                ptr<T>(s.rotary.sin), begin, end, ptr<T>(dqkv));
                  });
  });
  s.out = s.lse = at::Tensor();
  return dqkv;
}

at::Tensor rotate(const at::Tensor& x, const RotaryTables& rotary) {
  const int64_t half = x.size(-1) / 2;
  const at::Tensor a = x.narrow(-1, 0, half);
  const at::Tensor b = x.narrow(-1, half, half);
  const at::Tensor cos = rotary.cos.to(x.scalar_type());
  const at::Tensor sin = rotary.sin.to(x.scalar_type());
  return at::cat({a * cos - b * sin, b * cos + a * sin}, -1);
}

at::Tensor plain_attention(const at::Tensor& qkv, const HeadShard& heads,
                           const RotaryTables& rotary) {
  const int64_t seq = qkv.size(0);
  const int64_t batch = qkv.size(1);
  const int64_t all = heads.q_heads + 2 * heads.kv_heads;
  const at::Tensor x = qkv.view({seq, batch, all, -1}).permute({1, 2, 0, 3});
  const at::Tensor index = at::tensor(heads.kv_of_q).to(qkv.device());
  const int64_t turned = heads.q_heads + heads.kv_heads;
  const at::Tensor qk = rotate(x.narrow(1, 0, turned), rotary);
  const at::Tensor q = qk.narrow(1, 0, heads.q_heads);
  const at::Tensor k = qk.narrow(1, heads.q_heads, heads.kv_heads);
  const at::Tensor v = x.narrow(1, turned, heads.kv_heads);
  const at::Tensor out = at::scaled_dot_product_attention(
      q, k.index_select(1, index), v.index_select(1, index), {}, 0.0, /*is_causal=*/true);
  return out.permute({2, 0, 1, 3}).reshape({seq, batch, -1});
}

}  // namespace

RotaryTables rotary_tables(int64_t seq, int64_t head_dim, double base, at::TensorOptions options) {
  TORCH_CHECK(head_dim % 2 == 0, "rotary embedding: head_dim must be even, not ", head_dim);
  const auto wide = at::TensorOptions().dtype(at::kDouble);
  const int64_t half = head_dim / 2;
  const at::Tensor angle = at::empty({seq, half}, wide);
  auto* a = angle.mutable_data_ptr<double>();
  for (int64_t s = 0; s < seq; ++s)
    for (int64_t i = 0; i < half; ++i)
      a[s * half + i] = static_cast<double>(s) * std::pow(base, -static_cast<double>(i) / half);
  return {angle.cos().to(options), angle.sin().to(options)};
}

Recomputable attention(const at::Tensor& qkv, const HeadShard& heads, const RotaryTables& rotary,
                       bool recompute) {
  TORCH_CHECK(qkv.dim() == 3 && rotary.cos.size(0) >= qkv.size(0),
              "attention: want [seq <= ", rotary.cos.size(0), ", batch, heads * head_dim], not ",
              qkv.sizes());
  const RotaryTables tables{rotary.cos.narrow(0, 0, qkv.size(0)),
                            rotary.sin.narrow(0, 0, qkv.size(0))};
  if (!has_kernel(qkv)) return plain_attention(qkv, heads, tables);
  auto state = std::make_shared<AttentionState>();
  state->qkv = qkv.detach().contiguous();
  state->kv_of_q = heads.kv_of_q;
  state->rotary = tables;
  const int64_t dim = qkv.size(2) / (heads.q_heads + 2 * heads.kv_heads);
  state->shape = {qkv.size(0),
                  qkv.size(1),
                  heads.q_heads,
                  heads.kv_heads,
                  dim,
                  state->kv_of_q.data(),
                  1.0 / std::sqrt(static_cast<double>(dim))};
  compute(*state);
  at::Tensor out = state->out.variable_data();
  if (needs_graph({qkv}))
    record("attention", {qkv}, {out}, [state](const Tensors& grads) -> Tensors {
      return {compute_backward(*state, grads[0])};
    });
  if (!recompute) return out;
  state->out = state->lse = at::Tensor();
  return {out, [state] {
            compute(*state);
            return state->out;
          }};
}

}  // namespace convoy::parallel
