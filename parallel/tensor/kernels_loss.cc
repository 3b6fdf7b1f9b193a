// The vocabulary shard's part of the softmax cross entropy. The exponentials overwrite the logits
// in the forward pass, so that the backward pass needs neither another exp nor another buffer.
#include "parallel/tensor/kernel_math.h"
#include "parallel/tensor/kernels.h"

#include <limits>

namespace convoy::parallel::kernels {
namespace {

template <class T>
CONVOY_INLINE void forward_body(T* logits, const int64_t* targets, int64_t vocab_begin,
                                int64_t width, int64_t begin, int64_t end, T* stats) {
  for (int64_t r = begin; r < end; ++r) {
    T* row = logits + r * width;
    T max = -std::numeric_limits<T>::infinity();
#pragma omp simd reduction(max : max)
    for (int64_t i = 0; i < width; ++i) max = row[i] > max ? row[i] : max;
    const int64_t local = targets[r] - vocab_begin;
    stats[3 * r + 2] = targets[r] >= 0 && local >= 0 && local < width ? row[local] : T(0);
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) {
      const T e = fast_exp(row[i] - max);
      row[i] = e;
      sum += e;
    }
    stats[3 * r] = max;
    stats[3 * r + 1] = sum;
  }
}

template <class T>
CONVOY_INLINE void backward_body(T* exps, const int64_t* targets, const T* factor, T scale,
                                 int64_t vocab_begin, int64_t width, int64_t begin, int64_t end) {
  for (int64_t r = begin; r < end; ++r) {
    T* row = exps + r * width;
    const T k = targets[r] < 0 ? T(0) : factor[r] * scale;
    for (int64_t i = 0; i < width; ++i) row[i] *= k;
    const int64_t local = targets[r] - vocab_begin;
    if (targets[r] >= 0 && local >= 0 && local < width) row[local] -= scale;
  }
}

}  // namespace

#define CONVOY_LOSS_KERNELS(T)                                                                \
  template <>                                                                                 \
  CONVOY_CLONES void loss_forward(T* logits, const int64_t* targets, int64_t vocab_begin,     \
                                  int64_t width, int64_t begin, int64_t end, T* stats) {      \
    forward_body(logits, targets, vocab_begin, width, begin, end, stats);                     \
  }                                                                                           \
  template <>                                                                                 \
  CONVOY_CLONES void loss_backward(T* exps, const int64_t* targets, const T* factor, T scale, \
                                   int64_t vocab_begin, int64_t width, int64_t begin,         \
                                   int64_t end) {                                             \
    backward_body(exps, targets, factor, scale, vocab_begin, width, begin, end);              \
  }

CONVOY_LOSS_KERNELS(float)
CONVOY_LOSS_KERNELS(double)

}  // namespace convoy::parallel::kernels
