#pragma once

#include <convoy/parallel/tensor/random.h>

#include <cstdint>

// The arithmetic of the layers on CPU memory: plain pointers, no torch, one thread each. Every
// function exists for float and double. Rows are contiguous; [begin, end) is the caller's share of
// the rows, so that it decides about threads.
namespace convoy::parallel::kernels {

// Which elements of a [seq, batch, width] tensor a rank holds, as indices of the global
// [sample, position, column] tensor: the key of dropout. Row r of the tensor is position
// seq_begin + r / batch of sample first_sample + (r % batch) * sample_stride.
struct ElementMap {
  int64_t batch = 1;
  int64_t seq_begin = 0;
  int64_t seq_total = 1;
  int64_t first_sample = 0;
  int64_t sample_stride = 1;
  int64_t column_begin = 0;
  int64_t columns_total = 1;

  uint64_t row_base(int64_t row) const {
    const int64_t sample = first_sample + row % batch * sample_stride;
    const int64_t position = seq_begin + row / batch;
    return static_cast<uint64_t>((sample * seq_total + position) * columns_total + column_begin);
  }
};

// Keeps an element with probability 1 - p and scales it by 1 / (1 - p). p = 0: no dropout.
struct Dropout {
  double p = 0;
  RandomStream stream;
  ElementMap map;
};

// mask[i] = 0 or 1 / (1 - p) for elements base + i.
template <class T>
void dropout_mask(const Dropout& dropout, uint64_t base, int64_t n, T* mask);
// out = in * mask; in may be out.
template <class T>
void dropout(const Dropout& dropout, const T* in, int64_t width, int64_t begin, int64_t end,
             T* out);
// out = x + delta * mask.
template <class T>
void add_dropout(const Dropout& dropout, const T* x, const T* delta, int64_t width, int64_t begin,
                 int64_t end, T* out);

// h = x + dropout(delta) (delta may be null: h is not written, x is normalised);
// y = h * rstd * w with rstd = 1 / sqrt(mean(h²) + eps).
template <class T>
void rms_norm(const T* x, const T* delta, const T* w, const Dropout& dropout, double eps,
              int64_t width, int64_t begin, int64_t end, T* h, T* y, T* rstd);
// y again, from h and rstd.
template <class T>
void rms_norm_again(const T* h, const T* w, const T* rstd, int64_t width, int64_t begin,
                    int64_t end, T* y);
// dx = dh (may be null) + the norm's gradient; ddelta = dx * mask (null: not wanted);
// dw[width] += this share's part.
template <class T>
void rms_norm_backward(const T* dy, const T* dh, const T* h, const T* w, const T* rstd,
                       const Dropout& dropout, int64_t width, int64_t begin, int64_t end, T* dx,
                       T* ddelta, T* dw);

// to += from.
template <class T>
void add_row(const T* from, int64_t width, T* to);

// gate_up rows are [gate | up], 2 * width; y = gate * sigmoid(gate) * up.
template <class T>
void swiglu(const T* gate_up, int64_t width, int64_t begin, int64_t end, T* y);
template <class T>
void swiglu_backward(const T* dy, const T* gate_up, int64_t width, int64_t begin, int64_t end,
                     T* dgate_up);

// Logits of a vocabulary shard [vocab_begin, vocab_begin + width), per row: stats = {max,
// sum of exp(logit - max), target's logit or 0}, and the logits become exp(logit - max). A row
// whose target is negative is ignored by the loss, but gets max and sum too. A shard without
// columns gives max = -infinity, sum = 0.
template <class T>
void loss_forward(T* logits, const int64_t* targets, int64_t vocab_begin, int64_t width,
                  int64_t begin, int64_t end, T* stats);
// In place: exp(logit - max) -> gradient = (that * factor[row] - onehot) * scale, where factor
// turns it into the softmax over all shards; 0 for ignored rows.
template <class T>
void loss_backward(T* exps, const int64_t* targets, const T* factor, T scale, int64_t vocab_begin,
                   int64_t width, int64_t begin, int64_t end);

// Attention heads of a packed row [q heads | k heads | v heads], each `head_dim` wide. Query head h
// reads key/value head kv_of_q[h] (ascending).
struct AttentionShape {
  int64_t seq = 0;
  int64_t batch = 0;
  int64_t q_heads = 0;
  int64_t kv_heads = 0;
  int64_t head_dim = 0;
  const int64_t* kv_of_q = nullptr;
  double scale = 1;
  int64_t row() const { return (q_heads + 2 * kv_heads) * head_dim; }
};

// Causal attention with rotary embedding of q and k (rotating halves; tables [seq, head_dim / 2]).
// qkv and out are [seq, batch, …]; lse is [batch, q_heads, seq]. Tasks are (batch, kv head) pairs:
// [begin, end) of batch * kv_heads. Exact softmax over whole rows of 8 queries; nothing of size
// seq² is kept.
template <class T>
void attention(const AttentionShape& shape, const T* qkv, const T* cos, const T* sin, int64_t begin,
               int64_t end, T* out, T* lse);
template <class T>
void attention_backward(const AttentionShape& shape, const T* dout, const T* qkv, const T* out,
                        const T* lse, const T* cos, const T* sin, int64_t begin, int64_t end,
                        T* dqkv);

}  // namespace convoy::parallel::kernels
