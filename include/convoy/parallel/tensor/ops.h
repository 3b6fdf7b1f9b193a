#pragma once

#include <convoy/parallel/tensor/linear.h>
#include <convoy/parallel/tensor/parameter.h>
#include <convoy/parallel/tensor/random.h>

#include <ATen/core/Tensor.h>

#include <functional>
#include <memory>
#include <utility>

// Operations of a transformer that need no communication, with hand-written CPU kernels for
// contiguous float32 and float64 tensors; other dtypes and devices take plain ATen expressions.
namespace convoy::parallel {

// Which elements of the global [sample, position, column] activation a [seq, batch, width] tensor
// holds: row (s, b) is position seq_begin + s of sample first_sample + b * sample_stride of the
// step's global batch. Dropout is a function of these indices, so it does not depend on how the
// batch is cut into micro-batches or over ranks.
struct ElementPlace {
  int64_t seq_begin = 0;
  int64_t seq_total = 1;
  int64_t first_sample = 0;
  int64_t sample_stride = 1;
  int64_t column_begin = 0;
  int64_t columns_total = 0;  // 0: the tensor's width
};

// Keeps each element with probability 1 - p and scales it by 1 / (1 - p). p = 0: the identity.
struct DropoutSpec {
  double p = 0;
  RandomStream stream;
  ElementPlace place;
};

// x: [seq, batch, width], contiguous.
at::Tensor dropout(const at::Tensor& x, const DropoutSpec& spec);
// x + dropout(delta).
at::Tensor add_dropout(const at::Tensor& x, const at::Tensor& delta, const DropoutSpec& spec);

struct NormResult {
  at::Tensor sum;       // x + dropout(delta); x itself without delta
  Recomputable normed;  // sum / rms(sum) * weight
};
// Residual sum and RMSNorm in one pass. `delta` may be undefined. With `recompute` the normalised
// value can be made again from the sum (kept anyway) in backward.
NormResult add_rms_norm(const at::Tensor& x, const at::Tensor& delta, const DropoutSpec& spec,
                        const ParameterPtr& weight, double eps, bool recompute = false);

// gate_up: […, 2 f] = [gate | up] -> […, f]: silu(gate) * up.
Recomputable swiglu(const at::Tensor& gate_up, bool recompute = false);

// cos and sin of position * base^(-2 i / head_dim), [seq, head_dim / 2] each.
struct RotaryTables {
  at::Tensor cos, sin;
};
RotaryTables rotary_tables(int64_t seq, int64_t head_dim, double base, at::TensorOptions options);

// Causal self-attention over packed [seq, batch, (q + 2 kv) heads * head_dim] with rotary position
// embedding (halves rotated against each other) -> [seq, batch, q heads * head_dim]. Keeps qkv, the
// output and one number per row and head; with `recompute` only qkv.
Recomputable attention(const at::Tensor& qkv, const HeadShard& heads, const RotaryTables& rotary,
                       bool recompute = false);

// Full recompute (activation checkpointing): runs `block` without keeping anything but its inputs,
// and again, with autograd, in backward. `block` must be a pure function of its inputs and of
// parameters (dropout is: see RandomStream).
std::vector<at::Tensor> checkpoint(
    std::function<std::vector<at::Tensor>(const std::vector<at::Tensor>&)> block,
    const std::vector<at::Tensor>& inputs);

}  // namespace convoy::parallel
