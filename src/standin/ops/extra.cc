// Backward formulas are written with plain ATen calls; autograd works out those of attention, from
// a forward pass that is computed again.
#include "src/standin/ops/extra.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/GradMode.h>
#include <c10/core/impl/LocalDispatchKeySet.h>

#include <cmath>
#include <string>
#include <unordered_map>

namespace convoy::standin {
namespace {

using torch::jit::Stack;

at::Tensor tensor_or_none(const c10::IValue& value) {
  return value.isTensor() ? value.toTensor() : at::Tensor();
}

// --- aten::_fused_rms_norm_backward(grad_out, input, normalized_shape, rstd, weight, output_mask)

Stack rms_norm_backward_shapes(const Stack& a) {
  const at::Tensor weight = tensor_or_none(a[4]);
  const auto mask = a[5].toBoolList();
  return {mask[0] ? at::empty_like(a[1].toTensor()) : at::Tensor(),
          mask[1] && weight.defined() ? at::empty_like(weight) : at::Tensor()};
}

// y = x * rstd * w over the last dimensions, rstd = 1 / sqrt(mean(x²) + eps).
Stack rms_norm_backward(const Stack& a) {
  const at::Tensor &dy = a[0].toTensor(), &x = a[1].toTensor(), &rstd = a[3].toTensor();
  const at::Tensor weight = tensor_or_none(a[4]);
  const auto mask = a[5].toBoolList();
  std::vector<int64_t> inner, outer;  // dimensions
  const auto normalized = static_cast<int64_t>(a[2].toIntVector().size());
  for (int64_t d = 0; d < x.dim(); ++d) {
    (d < x.dim() - normalized ? outer : inner).push_back(d);
  }
  const at::ScalarType wide = x.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor g = dy.to(wide), scale = rstd.to(wide).view([&] {
    std::vector<int64_t> shape = x.sizes().vec();
    for (const int64_t d : inner) shape[static_cast<size_t>(d)] = 1;
    return shape;
  }());
  const at::Tensor normal = x.to(wide) * scale;
  Stack results = {at::Tensor(), at::Tensor()};
  if (mask[0]) {
    const at::Tensor gw = weight.defined() ? g * weight.to(wide) : g;
    const at::Tensor dx = (gw - normal * (gw * normal).mean(inner, /*keepdim=*/true)) * scale;
    results[0] = dx.to(x.scalar_type());
  }
  if (mask[1] && weight.defined()) {
    results[1] = (g * normal).sum(outer).view(weight.sizes()).to(weight.scalar_type());
  }
  return results;
}

// --- aten::_scaled_dot_product_efficient_attention(query, key, value, attn_bias,
//     compute_log_sumexp, dropout_p, is_causal, *, scale) -> (output, log_sumexp, philox_seed,
//     philox_offset); the seed holds dropout's mask here.

struct Attention {
  at::Tensor q, k, v, bias;
  double dropout = 0;
  bool causal = false;
  std::optional<double> scale;
  bool plain() const { return dropout == 0 && !bias.defined(); }
};

std::optional<double> scale_of(const c10::IValue& value) {
  return value.isNone() ? std::nullopt : std::optional<double>(value.toDouble());
}

// `kept`: 0 or 1 / (1 - p) for each weight; undefined: all are.
at::Tensor attend(const Attention& a, const at::Tensor& kept) {
  const double scale = a.scale.value_or(1 / std::sqrt(static_cast<double>(a.q.size(-1))));
  at::Tensor scores = at::matmul(a.q, a.k.transpose(-2, -1)) * scale;
  if (a.bias.defined()) scores = scores + a.bias;
  if (a.causal) {
    const auto all = at::ones({a.q.size(-2), a.k.size(-2)}, a.q.options().dtype(at::kBool));
    scores = scores.masked_fill(all.tril().logical_not(), -INFINITY);
  }
  at::Tensor weights = at::softmax(scores, -1);
  if (kept.defined()) weights = weights * kept;
  return at::matmul(weights, a.v);
}

Attention attention_of(const Stack& a) {
  return {a[0].toTensor(), a[1].toTensor(), a[2].toTensor(), tensor_or_none(a[3]),
          a[5].toDouble(), a[6].toBool(),   scale_of(a[7])};
}

Stack attention_shapes(const Stack& a) {
  const Attention t = attention_of(a);
  const at::Tensor &q = t.q, &k = t.k;
  const at::Tensor out = at::empty({q.size(0), q.size(2), q.size(1), t.v.size(3)}, q.options());
  const at::ScalarType wide = q.scalar_type() == at::kDouble ? at::kDouble : at::kFloat;
  const at::Tensor lse = at::empty({q.size(0), q.size(1), q.size(2)}, q.options().dtype(wide));
  const at::Tensor kept =
      t.dropout == 0 ? at::empty({0}, q.options())
                     : at::empty({q.size(0), q.size(1), q.size(2), k.size(2)}, q.options());
  return {out.transpose(1, 2), lse, kept, at::empty({0}, q.options())};
}

Stack attention(const Stack& a) {
  const Attention t = attention_of(a);
  const at::Tensor nothing = at::empty({0}, t.q.options());
  if (t.plain()) {
    auto [out, lse] =
        at::_scaled_dot_product_flash_attention_for_cpu(t.q, t.k, t.v, 0, t.causal, {}, t.scale);
    return {out, lse, nothing, nothing};
  }
  at::Tensor kept;
  if (t.dropout > 0) {
    kept = at::empty({t.q.size(0), t.q.size(1), t.q.size(2), t.k.size(2)}, t.q.options())
               .bernoulli_(1 - t.dropout)
               .div_(1 - t.dropout);
  }
  return {attend(t, kept), at::Tensor(), kept.defined() ? kept : nothing, nothing};
}

// ..._backward(grad_out, query, key, value, attn_bias, out, logsumexp, philox_seed, philox_offset,
// dropout_p, grad_input_mask, is_causal, *, scale)

Attention attention_of_backward(const Stack& a) {
  return {a[1].toTensor(), a[2].toTensor(), a[3].toTensor(), tensor_or_none(a[4]),
          a[9].toDouble(), a[11].toBool(),  scale_of(a[12])};
}

Stack attention_backward_shapes(const Stack& a) {
  const auto mask = a[10].toBoolList();
  Stack results;
  for (size_t i = 0; i < 4; ++i) {
    const at::Tensor input = tensor_or_none(a[1 + i]);
    const bool wanted = mask[i] && input.defined();
    results.emplace_back(wanted ? at::empty(input.sizes(), input.options()) : at::Tensor());
  }
  return results;
}

Stack attention_backward(const Stack& a) {
  const Attention t = attention_of_backward(a);
  const at::Tensor& grad = a[0].toTensor();
  if (t.plain()) {
    auto [dq, dk, dv] = at::_scaled_dot_product_flash_attention_for_cpu_backward(
        grad, t.q, t.k, t.v, a[5].toTensor(), a[6].toTensor(), 0, t.causal, {}, t.scale);
    return {dq, dk, dv, at::Tensor()};
  }
  const c10::AutoGradMode with_grad(true);
  // Streams' threads run below autograd; this is above it.
  const c10::impl::ForceDispatchKeyGuard from_above(c10::default_included_set,
                                                    c10::default_excluded_set);
  Attention leaves = t;
  std::vector<at::Tensor> inputs;
  for (at::Tensor* x : {&leaves.q, &leaves.k, &leaves.v, &leaves.bias}) {
    if (!x->defined()) continue;
    *x = x->detach().requires_grad_(true);
    inputs.push_back(*x);
  }
  const at::Tensor kept = t.dropout > 0 ? a[7].toTensor() : at::Tensor();
  attend(leaves, kept).backward(grad);
  Stack results;
  for (const at::Tensor* x : {&leaves.q, &leaves.k, &leaves.v, &leaves.bias}) {
    results.emplace_back(x->defined() ? x->grad() : at::Tensor());
  }
  return results;
}

const std::unordered_map<std::string, ExtraOperator>& all() {
  static const auto* operators = new std::unordered_map<std::string, ExtraOperator>{
      {"aten::_fused_rms_norm_backward", {rms_norm_backward_shapes, rms_norm_backward}},
      {"aten::_scaled_dot_product_efficient_attention", {attention_shapes, attention}},
      {"aten::_scaled_dot_product_efficient_attention_backward",
       {attention_backward_shapes, attention_backward}},
  };
  return *operators;
}

std::unordered_map<c10::OperatorHandle, const ExtraOperator*> find_all() {
  std::unordered_map<c10::OperatorHandle, const ExtraOperator*> found;
  for (const auto& [name, extra] : all()) {
    const auto op = c10::Dispatcher::singleton().findSchema({name, ""});
    if (op) found.emplace(*op, &extra);
  }
  return found;
}

}  // namespace

const ExtraOperator* extra_operator(const c10::OperatorHandle& op) {
  static const auto* found = new auto(find_all());  // never destroyed: used until the very end
  const auto at = found->find(op);
  return at == found->end() ? nullptr : at->second;
}

}  // namespace convoy::standin
