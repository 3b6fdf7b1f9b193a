// Row-wise kernels: dropout, RMSNorm with the residual sum fused in, SwiGLU. Bodies are templates
// over float and double; the exported functions compile them for several instruction sets.
#include "parallel/tensor/kernel_math.h"
#include "parallel/tensor/kernels.h"

namespace convoy::parallel::kernels {
namespace {

constexpr int64_t kMaskChunk = 256;  // elements of a mask made at a time; a multiple of 4

template <class T>
CONVOY_INLINE void mask_body(const Dropout& dropout, uint64_t base, int64_t n, T* mask) {
  const auto threshold = static_cast<uint32_t>(dropout.p * 4294967296.0);
  const T scale = static_cast<T>(1.0 / (1.0 - dropout.p));
  const uint32_t k0 = static_cast<uint32_t>(dropout.stream.seed);
  const uint32_t k1 = static_cast<uint32_t>(dropout.stream.seed >> 32);
  uint32_t bits[kMaskChunk + 4];
  for (int64_t done = 0; done < n;) {
    const uint64_t first = (base + done) / 4;
    const int64_t skip = static_cast<int64_t>((base + done) % 4);
    const int64_t count = n - done < kMaskChunk - 4 ? n - done : kMaskChunk - 4;
    const int64_t blocks = (skip + count + 3) / 4;
    for (int64_t b = 0; b < blocks; ++b)
      philox(static_cast<uint32_t>(first + b), static_cast<uint32_t>((first + b) >> 32),
             dropout.stream.step, dropout.stream.purpose_layer, k0, k1, bits + 4 * b);
    for (int64_t i = 0; i < count; ++i) mask[done + i] = bits[skip + i] < threshold ? T(0) : scale;
    done += count;
  }
}

// Calls `mask_body` in chunks and applies it: out = (x or 0) + in * mask.
template <class T>
CONVOY_INLINE void apply_mask(const Dropout& dropout, uint64_t base, int64_t n, const T* x,
                              const T* in, T* out) {
  T mask[kMaskChunk];
  for (int64_t c = 0; c < n; c += kMaskChunk) {
    const int64_t count = n - c < kMaskChunk ? n - c : kMaskChunk;
    mask_body(dropout, base + c, count, mask);
    if (x != nullptr)
      for (int64_t i = 0; i < count; ++i) out[c + i] = x[c + i] + in[c + i] * mask[i];
    else
      for (int64_t i = 0; i < count; ++i) out[c + i] = in[c + i] * mask[i];
  }
}

template <class T>
CONVOY_INLINE void add_delta(const Dropout& dropout, int64_t row, const T* x, const T* delta,
                             int64_t width, T* out) {
  if (dropout.p > 0)
    apply_mask(dropout, dropout.map.row_base(row), width, x, delta, out);
  else
    for (int64_t i = 0; i < width; ++i) out[i] = x[i] + delta[i];
}

template <class T>
CONVOY_INLINE void norm_body(const T* x, const T* delta, const T* w, const Dropout& dropout,
                             double eps, int64_t width, int64_t begin, int64_t end, T* h, T* y,
                             T* rstd) {
  for (int64_t r = begin; r < end; ++r) {
    const T* row = x + r * width;
    if (delta != nullptr) {
      add_delta(dropout, r, row, delta + r * width, width, h + r * width);
      row = h + r * width;
    }
    T sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < width; ++i) sum += row[i] * row[i];
    const T s = T(1) / std::sqrt(sum / static_cast<T>(width) + static_cast<T>(eps));
    rstd[r] = s;
    T* out = y + r * width;
    for (int64_t i = 0; i < width; ++i) out[i] = row[i] * s * w[i];
  }
}

template <class T>
CONVOY_INLINE void norm_backward_body(const T* dy, const T* dh, const T* h, const T* w,
                                      const T* rstd, const Dropout& dropout, int64_t width,
                                      int64_t begin, int64_t end, T* dx, T* ddelta, T* dw) {
  for (int64_t r = begin; r < end; ++r) {
    const T* g = dy + r * width;
    const T* row = h + r * width;
    const T s = rstd[r];
    T dot = 0;
#pragma omp simd reduction(+ : dot)
    for (int64_t i = 0; i < width; ++i) dot += g[i] * w[i] * row[i];
    const T k = dot * s * s * s / static_cast<T>(width);
    T* out = dx + r * width;
    if (dh != nullptr) {
      const T* add = dh + r * width;
      for (int64_t i = 0; i < width; ++i) out[i] = add[i] + (g[i] * w[i] * s - row[i] * k);
    } else {
      for (int64_t i = 0; i < width; ++i) out[i] = g[i] * w[i] * s - row[i] * k;
    }
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) dw[i] += g[i] * row[i] * s;
    if (ddelta != nullptr)
      apply_mask(dropout, dropout.map.row_base(r), width, static_cast<const T*>(nullptr),
                 static_cast<const T*>(out), ddelta + r * width);
  }
}

template <class T>
CONVOY_INLINE void swiglu_body(const T* gate_up, int64_t width, int64_t begin, int64_t end, T* y) {
  for (int64_t r = begin; r < end; ++r) {
    const T* gate = gate_up + 2 * r * width;
    const T* up = gate + width;
    T* out = y + r * width;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) out[i] = gate[i] * up[i] / (T(1) + fast_exp(-gate[i]));
  }
}

template <class T>
CONVOY_INLINE void swiglu_backward_body(const T* dy, const T* gate_up, int64_t width, int64_t begin,
                                        int64_t end, T* dgate_up) {
  for (int64_t r = begin; r < end; ++r) {
    const T* g = dy + r * width;
    const T* gate = gate_up + 2 * r * width;
    const T* up = gate + width;
    T* dgate = dgate_up + 2 * r * width;
    T* dup = dgate + width;
#pragma GCC ivdep
    for (int64_t i = 0; i < width; ++i) {
      const T sigmoid = T(1) / (T(1) + fast_exp(-gate[i]));
      const T silu = gate[i] * sigmoid;
      dgate[i] = g[i] * up[i] * (sigmoid + silu * (T(1) - sigmoid));
      dup[i] = g[i] * silu;
    }
  }
}

template <class T>
CONVOY_INLINE void norm_again_body(const T* h, const T* w, const T* rstd, int64_t width,
                                   int64_t begin, int64_t end, T* y) {
  for (int64_t r = begin; r < end; ++r)
    for (int64_t i = 0; i < width; ++i) y[r * width + i] = h[r * width + i] * rstd[r] * w[i];
}

}  // namespace

// One set of exported functions per element type; a macro, because target_clones does not combine
// with templates.
#define CONVOY_ROW_KERNELS(T)                                                                     \
  template <>                                                                                     \
  CONVOY_CLONES void dropout_mask(const Dropout& d, uint64_t base, int64_t n, T* mask) {          \
    mask_body(d, base, n, mask);                                                                  \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void dropout(const Dropout& d, const T* in, int64_t width, int64_t begin,         \
                             int64_t end, T* out) {                                               \
    for (int64_t r = begin; r < end; ++r)                                                         \
      apply_mask(d, d.map.row_base(r), width, static_cast<const T*>(nullptr), in + r * width,     \
                 out + r * width);                                                                \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void add_dropout(const Dropout& d, const T* x, const T* delta, int64_t width,     \
                                 int64_t begin, int64_t end, T* out) {                            \
    for (int64_t r = begin; r < end; ++r)                                                         \
      add_delta(d, r, x + r * width, delta + r * width, width, out + r * width);                  \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void rms_norm(const T* x, const T* delta, const T* w, const Dropout& d,           \
                              double eps, int64_t width, int64_t begin, int64_t end, T* h, T* y,  \
                              T* rstd) {                                                          \
    norm_body(x, delta, w, d, eps, width, begin, end, h, y, rstd);                                \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void rms_norm_again(const T* h, const T* w, const T* rstd, int64_t width,         \
                                    int64_t begin, int64_t end, T* y) {                           \
    norm_again_body(h, w, rstd, width, begin, end, y);                                            \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void rms_norm_backward(const T* dy, const T* dh, const T* h, const T* w,          \
                                       const T* rstd, const Dropout& d, int64_t width,            \
                                       int64_t begin, int64_t end, T* dx, T* ddelta, T* dw) {     \
    norm_backward_body(dy, dh, h, w, rstd, d, width, begin, end, dx, ddelta, dw);                 \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void add_row(const T* from, int64_t width, T* to) {                               \
    for (int64_t i = 0; i < width; ++i) to[i] += from[i];                                         \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void swiglu(const T* gate_up, int64_t width, int64_t begin, int64_t end, T* y) {  \
    swiglu_body(gate_up, width, begin, end, y);                                                   \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void swiglu_backward(const T* dy, const T* gate_up, int64_t width, int64_t begin, \
                                     int64_t end, T* dgate_up) {                                  \
    swiglu_backward_body(dy, gate_up, width, begin, end, dgate_up);                               \
  }

CONVOY_ROW_KERNELS(float)
CONVOY_ROW_KERNELS(double)

}  // namespace convoy::parallel::kernels
