// Dropout, RMSNorm and SwiGLU as autograd operations around the row kernels, with plain ATen
// expressions for dtypes and devices that have none.
#include "parallel/tensor/autograd.h"
#include "parallel/tensor/kernels.h"
#include "parallel/tensor/threads.h"
#include <convoy/parallel/tensor/ops.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/rms_norm.h>
#include <ATen/ops/sigmoid.h>
#include <ATen/ops/silu.h>
#include <ATen/ops/zeros.h>

namespace convoy::parallel {
namespace {

kernels::Dropout kernel_dropout(const DropoutSpec& spec, const at::Tensor& x) {
  TORCH_CHECK(spec.p >= 0 && spec.p < 1, "dropout: p must be in [0, 1), not ", spec.p);
  TORCH_CHECK(spec.p == 0 || x.dim() == 3, "dropout: want [seq, batch, width], not ", x.sizes());
  kernels::Dropout d{spec.p, spec.stream, {}};
  if (spec.p == 0) return d;
  const ElementPlace& place = spec.place;
  d.map = {x.size(1),
           place.seq_begin,
           place.seq_total,
           place.first_sample,
           place.sample_stride,
           place.column_begin,
           place.columns_total > 0 ? place.columns_total : x.size(2)};
  return d;
}

int64_t rows_of(const at::Tensor& x) {
  return x.size(-1) == 0 ? 0 : x.numel() / x.size(-1);
}

// The dropout factors of x's elements, for the plain expressions.
at::Tensor mask_of(const at::Tensor& x, const DropoutSpec& spec) {
  const kernels::Dropout d = kernel_dropout(spec, x);
  const at::Tensor mask = at::empty(x.sizes(), at::TensorOptions().dtype(at::kFloat));
  const int64_t width = x.size(-1);
  for (int64_t r = 0; r < rows_of(x); ++r)
    kernels::dropout_mask(d, d.map.row_base(r), width, ptr<float>(mask) + r * width);
  return mask.to(x.options().requires_grad(false));
}

// out = (x or nothing) + dropout(delta) by the kernels.
at::Tensor apply_dropout(const at::Tensor& x, const at::Tensor& delta,
                         const kernels::Dropout& spec) {
  at::Tensor out = at::empty(delta.sizes(), delta.options().requires_grad(false));
  const int64_t width = delta.size(-1);
  dispatch_real(delta, [&]<class T>(T) {
    parallel_rows(rows_of(delta), width, [&](int64_t begin, int64_t end) {
      if (x.defined())
        kernels::add_dropout(spec, ptr<T>(x), ptr<T>(delta), width, begin, end, ptr<T>(out));
      else
        kernels::dropout(spec, ptr<T>(delta), width, begin, end, ptr<T>(out));
    });
  });
  return out;
}

struct NormState {
  at::Tensor h, rstd;
  ParameterPtr weight;
  kernels::Dropout dropout;
  bool has_delta = false;
};

at::Tensor norm_again(const NormState& s) {
  at::Tensor y = at::empty_like(s.h);
  const int64_t width = s.h.size(-1);
  const at::Tensor w = s.weight->data();
  dispatch_real(s.h, [&]<class T>(T) {
    parallel_rows(rows_of(s.h), width, [&](int64_t begin, int64_t end) {
      kernels::rms_norm_again(ptr<T>(s.h), ptr<T>(w), ptr<T>(s.rstd), width, begin, end, ptr<T>(y));
    });
  });
  return y;
}

// Gradients of (x, delta, weight); the weight's goes to its parameter.
Tensors norm_backward(const NormState& s, const at::Tensor& dh_in, const at::Tensor& dy_in) {
  const int64_t width = s.h.size(-1);
  const int64_t rows = rows_of(s.h);
  const at::Tensor dy = dy_in.defined() ? dy_in.contiguous() : at::zeros_like(s.h);
  const at::Tensor dh = dh_in.defined() ? dh_in.contiguous() : at::Tensor();
  const at::Tensor dx = at::empty_like(s.h);
  at::Tensor ddelta = s.has_delta && s.dropout.p > 0 ? at::empty_like(s.h) : at::Tensor();
  const at::Tensor w = s.weight->data();
  // A row per thread, summed in order: the same for every run with this number of threads.
  const int threads = at::get_num_threads();
  const at::Tensor dw = at::zeros({threads, width}, w.options());
  dispatch_real(s.h, [&]<class T>(T) {
    parallel_rows(rows, width, [&](int64_t begin, int64_t end) {
      kernels::rms_norm_backward(ptr<T>(dy), ptr<T>(dh), ptr<T>(s.h), ptr<T>(w), ptr<T>(s.rstd),
                                 s.dropout, width, begin, end, ptr<T>(dx), ptr<T>(ddelta),
                                 ptr<T>(dw) + at::get_thread_num() * width);
    });
  });
  s.weight->add_grad(threads == 1 ? dw.view({width}) : dw.sum(0));
  return {dx, s.has_delta ? (ddelta.defined() ? ddelta : dx) : at::Tensor(), at::Tensor()};
}

NormResult plain_norm(const at::Tensor& x, const at::Tensor& delta, const DropoutSpec& spec,
                      const ParameterPtr& weight, double eps) {
  const at::Tensor h = delta.defined() ? add_dropout(x, delta, spec) : x;
  return {h, Recomputable(at::rms_norm(h, {h.size(-1)}, weight->tracked(), eps))};
}

}  // namespace

at::Tensor dropout(const at::Tensor& x, const DropoutSpec& spec) {
  if (spec.p == 0) return x;
  if (!has_kernel(x)) return x * mask_of(x, spec);
  const kernels::Dropout d = kernel_dropout(spec, x);
  at::Tensor out = apply_dropout({}, x.detach().contiguous(), d);
  if (needs_graph({x}))
    record("dropout", {x}, {out}, [d](const Tensors& grads) -> Tensors {
      return {apply_dropout({}, grads[0].contiguous(), d)};
    });
  return out;
}

at::Tensor add_dropout(const at::Tensor& x, const at::Tensor& delta, const DropoutSpec& spec) {
  if (!has_kernel(x)) return x + (spec.p > 0 ? delta * mask_of(delta, spec) : delta);
  const kernels::Dropout d = kernel_dropout(spec, x);
  at::Tensor out = apply_dropout(x.detach().contiguous(), delta.detach().contiguous(), d);
  if (needs_graph({x, delta}))
    record("add_dropout", {x, delta}, {out}, [d](const Tensors& grads) -> Tensors {
      return {grads[0], d.p > 0 ? apply_dropout({}, grads[0].contiguous(), d) : grads[0]};
    });
  return out;
}

NormResult add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const DropoutSpec& spec,
                        const ParameterPtr& weight, double eps, bool recompute) {
  if (!has_kernel(x)) return plain_norm(x, delta, spec, weight, eps);
  const int64_t width = x.size(-1);
  const at::Tensor in = x.detach().contiguous();
  const at::Tensor add = delta.defined() ? delta.detach().contiguous() : at::Tensor();
  auto state = std::make_shared<NormState>();
  state->weight = weight;
  state->has_delta = delta.defined();
  if (delta.defined()) state->dropout = kernel_dropout(spec, delta);
  state->h = delta.defined() ? at::empty_like(in) : in;
  state->rstd = at::empty({rows_of(in)}, in.options());
  at::Tensor y = at::empty_like(in);
  const at::Tensor w = weight->data();
  dispatch_real(in, [&]<class T>(T) {
    parallel_rows(rows_of(in), width, [&](int64_t begin, int64_t end) {
      kernels::rms_norm(ptr<T>(in), ptr<T>(add), ptr<T>(w), state->dropout, eps, width, begin, end,
                        ptr<T>(state->h), ptr<T>(y), ptr<T>(state->rstd));
    });
  });
  at::Tensor sum = state->h.variable_data();
  if (needs_graph({x, delta, weight->value}))
    record("add_rms_norm", {x, delta, weight->value}, {sum, y},
           [state](const Tensors& grads) { return norm_backward(*state, grads[0], grads[1]); });
  if (!recompute) return {sum, Recomputable(y)};
  return {sum, Recomputable(y, [state] { return norm_again(*state); })};
}

namespace {

at::Tensor swiglu_forward(const at::Tensor& gate_up) {
  std::vector<int64_t> shape = gate_up.sizes().vec();
  shape.back() /= 2;
  at::Tensor y = at::empty(shape, gate_up.options().requires_grad(false));
  dispatch_real(gate_up, [&]<class T>(T) {
    parallel_rows(rows_of(y), 8 * shape.back(), [&](int64_t begin, int64_t end) {
      kernels::swiglu(ptr<T>(gate_up), shape.back(), begin, end, ptr<T>(y));
    });
  });
  return y;
}

at::Tensor swiglu_backward(const at::Tensor& dy_in, const at::Tensor& gate_up) {
  const at::Tensor dy = dy_in.contiguous();
  at::Tensor out = at::empty_like(gate_up);
  dispatch_real(gate_up, [&]<class T>(T) {
    parallel_rows(rows_of(dy), 8 * dy.size(-1), [&](int64_t begin, int64_t end) {
      kernels::swiglu_backward(ptr<T>(dy), ptr<T>(gate_up), dy.size(-1), begin, end, ptr<T>(out));
    });
  });
  return out;
}

}  // namespace

Recomputable swiglu(const at::Tensor& gate_up, bool recompute) {
  if (!has_kernel(gate_up)) {
    const int64_t f = gate_up.size(-1) / 2;
    return at::silu(gate_up.narrow(-1, 0, f)) * gate_up.narrow(-1, f, f);
  }
  const at::Tensor in = gate_up.detach().contiguous();
  at::Tensor y = swiglu_forward(in);
  if (needs_graph({gate_up}))
    record("swiglu", {gate_up}, {y},
           [in](const Tensors& grads) -> Tensors { return {swiglu_backward(grads[0], in)}; });
  if (!recompute) return y;
  return {y, [in] { return swiglu_forward(in); }};
}

}  // namespace convoy::parallel
