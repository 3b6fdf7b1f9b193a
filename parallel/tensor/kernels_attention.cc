// Causal attention with rotary embedding on packed [seq, batch, heads] rows.
//
// Per (sample, key/value head) the keys and values are packed once (rotated, padded to whole
// vectors, keys also transposed), then each query head is walked in blocks of 8 rows: their scores
// against all earlier keys fit the first-level cache, so the softmax is exact and needs no
// rescaling. The backward pass recomputes the scores from the saved log-sum-exp. The inner loops
// are register tiles written with vector types, which the compiler lowers to each instruction set
// of CONVOY_CLONES.
#include "parallel/tensor/kernel_math.h"
#include "parallel/tensor/kernels.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace convoy::parallel::kernels {
namespace {

constexpr int kRows = 8;  // query rows of a block: 8 × 2 accumulators fill the vector registers

template <class T>
struct Lanes {
  static constexpr int kCount = 64 / sizeof(T);
  typedef T Vector __attribute__((vector_size(64), may_alias));
};

int64_t round_up(int64_t n, int64_t to) {
  return (n + to - 1) / to * to;
}

// 64-byte aligned scratch of one thread, kept between calls.
template <class T>
class Scratch {
 public:
  explicit Scratch(int64_t count) {
    thread_local std::vector<char> memory;
    const size_t need = static_cast<size_t>(count) * sizeof(T) + 64;
    if (memory.size() < need) memory.resize(need);
    const auto address = reinterpret_cast<uintptr_t>(memory.data());
    next_ = reinterpret_cast<T*>((address + 63) / 64 * 64);
  }
  // `count` must be a multiple of a vector's lanes.
  T* take(int64_t count) {
    T* out = next_;
    next_ += count;
    return out;
  }

 private:
  T* next_;
};

struct Sizes {
  int64_t dim, dim_pad, rows, columns;  // head_dim; padded; seq to whole blocks; to whole vectors
};

template <class T>
Sizes sizes_of(const AttentionShape& shape) {
  return {shape.head_dim, round_up(shape.head_dim, Lanes<T>::kCount), round_up(shape.seq, kRows),
          round_up(shape.seq, 2 * Lanes<T>::kCount)};
}

// out[8][columns] = a[8][dim] · bt[dim][stride], for the first `columns` (rounded up) columns.
template <class T>
CONVOY_INLINE void scores(const T* a, int64_t a_stride, int64_t dim, const T* bt, int64_t stride,
                          int64_t columns, T* out) {
  using V = typename Lanes<T>::Vector;
  constexpr int kLanes = Lanes<T>::kCount;
  for (int64_t j = 0; j < columns; j += 2 * kLanes) {
    V acc[kRows][2] = {};
    for (int64_t d = 0; d < dim; ++d) {
      const V b0 = *reinterpret_cast<const V*>(bt + d * stride + j);
      const V b1 = *reinterpret_cast<const V*>(bt + d * stride + j + kLanes);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) {
        acc[r][0] += a[r * a_stride + d] * b0;
        acc[r][1] += a[r * a_stride + d] * b1;
      }
    }
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) {
      *reinterpret_cast<V*>(out + r * stride + j) = acc[r][0];
      *reinterpret_cast<V*>(out + r * stride + j + kLanes) = acc[r][1];
    }
  }
}

// out[8][dim_pad] (C vectors at column c) = p[8][n] · v[n][dim_pad].
template <class T, int C>
CONVOY_INLINE void weighted_rows(const T* p, int64_t stride, int64_t n, const T* v, int64_t dim_pad,
                                 int64_t c, T* out) {
  using V = typename Lanes<T>::Vector;
  constexpr int kLanes = Lanes<T>::kCount;
  V acc[kRows][C] = {};
  for (int64_t j = 0; j < n; ++j) {
    V row[C];
    for (int k = 0; k < C; ++k)
      row[k] = *reinterpret_cast<const V*>(v + j * dim_pad + c + k * kLanes);
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r)
      for (int k = 0; k < C; ++k) acc[r][k] += p[r * stride + j] * row[k];
  }
#pragma GCC unroll 8
  for (int r = 0; r < kRows; ++r)
    for (int k = 0; k < C; ++k)
      *reinterpret_cast<V*>(out + r * dim_pad + c + k * kLanes) = acc[r][k];
}

template <class T>
CONVOY_INLINE void weighted_sum(const T* p, int64_t stride, int64_t n, const T* v, int64_t dim_pad,
                                T* out) {
  constexpr int kLanes = Lanes<T>::kCount;
  int64_t c = 0;
  for (; c + 2 * kLanes <= dim_pad; c += 2 * kLanes)
    weighted_rows<T, 2>(p, stride, n, v, dim_pad, c, out);
  if (c < dim_pad) weighted_rows<T, 1>(p, stride, n, v, dim_pad, c, out);
}

// out[n][dim_pad] += p[8][n]ᵀ · q[8][dim_pad].
template <class T>
CONVOY_INLINE void add_transposed(const T* p, int64_t stride, int64_t n, const T* q,
                                  int64_t dim_pad, T* out) {
  using V = typename Lanes<T>::Vector;
  constexpr int kLanes = Lanes<T>::kCount;
  for (int64_t c = 0; c < dim_pad; c += kLanes) {
    V rows[kRows];
#pragma GCC unroll 8
    for (int r = 0; r < kRows; ++r) rows[r] = *reinterpret_cast<const V*>(q + r * dim_pad + c);
    for (int64_t j = 0; j < n; ++j) {
      V acc = *reinterpret_cast<V*>(out + j * dim_pad + c);
#pragma GCC unroll 8
      for (int r = 0; r < kRows; ++r) acc += p[r * stride + j] * rows[r];
      *reinterpret_cast<V*>(out + j * dim_pad + c) = acc;
    }
  }
}

// A head's rows, rotated by the tables (null: not) and scaled, into rows[seq][stride].
template <class T>
CONVOY_INLINE void pack(const AttentionShape& shape, const T* from, int64_t from_stride,
                        const T* cos, const T* sin, T scale, int64_t stride, T* rows) {
  const int64_t dim = shape.head_dim;
  const int64_t half = dim / 2;
  for (int64_t s = 0; s < shape.seq; ++s) {
    const T* x = from + s * from_stride;
    T* row = rows + s * stride;
    if (cos == nullptr) {
      for (int64_t d = 0; d < dim; ++d) row[d] = x[d] * scale;
    } else {
      const T* c = cos + s * half;
      const T* n = sin + s * half;
#pragma GCC ivdep
      for (int64_t d = 0; d < half; ++d) {
        row[d] = (x[d] * c[d] - x[d + half] * n[d]) * scale;
        row[d + half] = (x[d + half] * c[d] + x[d] * n[d]) * scale;
      }
    }
    for (int64_t d = dim; d < stride; ++d) row[d] = T(0);
  }
}

// The reverse: gradients of packed rows back to the head's place, rotated back.
template <class T>
CONVOY_INLINE void unpack(const AttentionShape& shape, const T* rows, int64_t stride, const T* cos,
                          const T* sin, T scale, int64_t to_stride, T* to) {
  const int64_t dim = shape.head_dim;
  const int64_t half = dim / 2;
  for (int64_t s = 0; s < shape.seq; ++s) {
    const T* g = rows + s * stride;
    T* x = to + s * to_stride;
    if (cos == nullptr) {
      for (int64_t d = 0; d < dim; ++d) x[d] = g[d] * scale;
      continue;
    }
    const T* c = cos + s * half;
    const T* n = sin + s * half;
#pragma GCC ivdep
    for (int64_t d = 0; d < half; ++d) {
      x[d] = (g[d] * c[d] + g[d + half] * n[d]) * scale;
      x[d + half] = (g[d + half] * c[d] - g[d] * n[d]) * scale;
    }
  }
}

// rows[seq][stride] -> out[dim][columns], columns past seq zero.
template <class T>
CONVOY_INLINE void transpose(const T* rows, int64_t stride, int64_t seq, int64_t dim,
                             int64_t columns, T* out) {
  for (int64_t d = 0; d < dim; ++d) {
    for (int64_t s = 0; s < seq; ++s) out[d * columns + s] = rows[s * stride + d];
    for (int64_t s = seq; s < columns; ++s) out[d * columns + s] = T(0);
  }
}

template <class T>
CONVOY_INLINE void zero_rows(T* rows, int64_t stride, int64_t begin, int64_t end) {
  if (end > begin) std::memset(rows + begin * stride, 0, (end - begin) * stride * sizeof(T));
}

// Row r of the block: scores -> probabilities not yet divided by their sum; gives max and sum.
template <class T>
CONVOY_INLINE void softmax_row(T* row, int64_t len, int64_t end, T* max_out, T* sum_out) {
  T max = row[0];
#pragma omp simd reduction(max : max)
  for (int64_t j = 0; j < len; ++j) max = row[j] > max ? row[j] : max;
  T sum = 0;
#pragma omp simd reduction(+ : sum)
  for (int64_t j = 0; j < len; ++j) {
    const T e = fast_exp(row[j] - max);
    row[j] = e;
    sum += e;
  }
  for (int64_t j = len; j < end; ++j) row[j] = T(0);
  *max_out = max;
  *sum_out = sum;
}

template <class T>
CONVOY_INLINE void query_head(const AttentionShape& shape, const Sizes& z, const T* q, const T* kt,
                              const T* v, T* p, T* block, int64_t out_stride, T* out, T* lse) {
  for (int64_t i = 0; i < shape.seq; i += kRows) {
    const int64_t n = std::min<int64_t>(i + kRows, shape.seq);
    const int64_t rows = n - i;
    scores(q + i * z.dim, z.dim, z.dim, kt, z.columns, n, p);
    T inverse[kRows] = {};
    for (int64_t r = 0; r < rows; ++r) {
      T max, sum;
      softmax_row(p + r * z.columns, i + r + 1, n, &max, &sum);
      inverse[r] = T(1) / sum;
      lse[i + r] = max + std::log(sum);
    }
    weighted_sum(p, z.columns, n, v, z.dim_pad, block);
    for (int64_t r = 0; r < rows; ++r)
      for (int64_t d = 0; d < z.dim; ++d)
        out[(i + r) * out_stride + d] = block[r * z.dim_pad + d] * inverse[r];
  }
}

template <class T>
CONVOY_INLINE void forward_body(const AttentionShape& shape, const T* qkv, const T* cos,
                                const T* sin, int64_t begin, int64_t end, T* out, T* lse) {
  const Sizes z = sizes_of<T>(shape);
  const int64_t vectors = Lanes<T>::kCount;
  const int64_t packed = round_up(z.rows * z.dim, vectors);
  Scratch<T> scratch(packed + z.dim * z.columns + z.rows * z.dim_pad + kRows * z.columns +
                     kRows * z.dim_pad);
  T* q = scratch.take(packed);
  T* kt = scratch.take(z.dim * z.columns);
  T* v = scratch.take(z.rows * z.dim_pad);
  T* p = scratch.take(kRows * z.columns);
  T* block = scratch.take(kRows * z.dim_pad);
  const int64_t stride = shape.batch * shape.row();
  const int64_t out_stride = shape.batch * shape.q_heads * z.dim;
  zero_rows(q, z.dim, shape.seq, z.rows);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / shape.kv_heads;
    const int64_t kv = task % shape.kv_heads;
    const T* row = qkv + b * shape.row();
    // v's memory holds the rotated keys until they are transposed.
    pack(shape, row + (shape.q_heads + kv) * z.dim, stride, cos, sin, T(1), z.dim_pad, v);
    transpose(v, z.dim_pad, shape.seq, z.dim, z.columns, kt);
    pack<T>(shape, row + (shape.q_heads + shape.kv_heads + kv) * z.dim, stride, nullptr, nullptr,
            T(1), z.dim_pad, v);
    for (int64_t h = 0; h < shape.q_heads; ++h) {
      if (shape.kv_of_q[h] != kv) continue;
      pack(shape, row + h * z.dim, stride, cos, sin, static_cast<T>(shape.scale), z.dim, q);
      query_head(shape, z, q, kt, v, p, block, out_stride, out + (b * shape.q_heads + h) * z.dim,
                 lse + (b * shape.q_heads + h) * shape.seq);
    }
  }
}

// Memory of one backward task: packed operands, accumulators, and two blocks of scores.
template <class T>
struct BackwardScratch {
  T *q, *k, *kt, *vt, *v, *g, *dq, *dk, *dv, *p, *ds;
  static int64_t count(const Sizes& z) {
    return 7 * z.rows * z.dim_pad + 2 * z.dim * z.columns + 2 * kRows * z.columns;
  }
  BackwardScratch(Scratch<T>& scratch, const Sizes& z) {
    for (T** rows : {&q, &k, &v, &g, &dq, &dk, &dv}) *rows = scratch.take(z.rows * z.dim_pad);
    for (T** columns : {&kt, &vt}) *columns = scratch.take(z.dim * z.columns);
    for (T** block : {&p, &ds}) *block = scratch.take(kRows * z.columns);
  }
};

template <class T>
CONVOY_INLINE void query_head_backward(const AttentionShape& shape, const Sizes& z,
                                       const BackwardScratch<T>& m, const T* out,
                                       int64_t out_stride, const T* lse) {
  for (int64_t i = 0; i < shape.seq; i += kRows) {
    const int64_t n = std::min<int64_t>(i + kRows, shape.seq);
    scores(m.q + i * z.dim_pad, z.dim_pad, z.dim, m.kt, z.columns, n, m.p);
    scores(m.g + i * z.dim_pad, z.dim_pad, z.dim, m.vt, z.columns, n, m.ds);
    for (int64_t r = 0; r < kRows; ++r) {
      T* p = m.p + r * z.columns;
      T* ds = m.ds + r * z.columns;
      const int64_t len = i + r < shape.seq ? i + r + 1 : 0;
      if (len > 0) {
        const T* g = m.g + (i + r) * z.dim_pad;
        const T* o = out + (i + r) * out_stride;
        T dot = 0;
        for (int64_t d = 0; d < z.dim; ++d) dot += g[d] * o[d];
        const T row_lse = lse[i + r];
#pragma GCC ivdep
        for (int64_t j = 0; j < len; ++j) {
          p[j] = fast_exp(p[j] - row_lse);
          ds[j] = p[j] * (ds[j] - dot);
        }
      }
      for (int64_t j = len; j < n; ++j) p[j] = ds[j] = T(0);
    }
    weighted_sum(m.ds, z.columns, n, m.k, z.dim_pad, m.dq + i * z.dim_pad);
    add_transposed(m.ds, z.columns, n, m.q + i * z.dim_pad, z.dim_pad, m.dk);
    add_transposed(m.p, z.columns, n, m.g + i * z.dim_pad, z.dim_pad, m.dv);
  }
}

template <class T>
CONVOY_INLINE void backward_body(const AttentionShape& shape, const T* dout, const T* qkv,
                                 const T* out, const T* lse, const T* cos, const T* sin,
                                 int64_t begin, int64_t end, T* dqkv) {
  const Sizes z = sizes_of<T>(shape);
  Scratch<T> scratch(BackwardScratch<T>::count(z));
  const BackwardScratch<T> m(scratch, z);
  const int64_t stride = shape.batch * shape.row();
  const int64_t out_stride = shape.batch * shape.q_heads * z.dim;
  const T scale = static_cast<T>(shape.scale);
  for (T* rows : {m.q, m.g}) zero_rows(rows, z.dim_pad, shape.seq, z.rows);
  for (int64_t task = begin; task < end; ++task) {
    const int64_t b = task / shape.kv_heads;
    const int64_t kv = task % shape.kv_heads;
    const int64_t k_at = b * shape.row() + (shape.q_heads + kv) * z.dim;
    const int64_t v_at = k_at + shape.kv_heads * z.dim;
    pack(shape, qkv + k_at, stride, cos, sin, T(1), z.dim_pad, m.k);
    transpose(m.k, z.dim_pad, shape.seq, z.dim, z.columns, m.kt);
    pack<T>(shape, qkv + v_at, stride, nullptr, nullptr, T(1), z.dim_pad, m.v);
    transpose(m.v, z.dim_pad, shape.seq, z.dim, z.columns, m.vt);
    for (T* rows : {m.dk, m.dv}) zero_rows(rows, z.dim_pad, 0, z.rows);
    for (int64_t h = 0; h < shape.q_heads; ++h) {
      if (shape.kv_of_q[h] != kv) continue;
      const int64_t q_at = b * shape.row() + h * z.dim;
      const int64_t o_at = (b * shape.q_heads + h) * z.dim;
      pack(shape, qkv + q_at, stride, cos, sin, scale, z.dim_pad, m.q);
      pack<T>(shape, dout + o_at, out_stride, nullptr, nullptr, T(1), z.dim_pad, m.g);
      query_head_backward(shape, z, m, out + o_at, out_stride,
                          lse + (b * shape.q_heads + h) * shape.seq);
      unpack(shape, m.dq, z.dim_pad, cos, sin, scale, stride, dqkv + q_at);
    }
    unpack(shape, m.dk, z.dim_pad, cos, sin, T(1), stride, dqkv + k_at);
    unpack<T>(shape, m.dv, z.dim_pad, nullptr, nullptr, T(1), stride, dqkv + v_at);
  }
}

}  // namespace

#define CONVOY_ATTENTION_KERNELS(T)                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void attention(const AttentionShape& shape, const T* qkv, const T* cos,           \
                               const T* sin, int64_t begin, int64_t end, T* out, T* lse) {        \
    forward_body(shape, qkv, cos, sin, begin, end, out, lse);                                     \
  }                                                                                               \
  template <>                                                                                     \
  CONVOY_CLONES void attention_backward(const AttentionShape& shape, const T* dout, const T* qkv, \
                                        const T* out, const T* lse, const T* cos, const T* sin,   \
                                        int64_t begin, int64_t end, T* dqkv) {                    \
    backward_body(shape, dout, qkv, out, lse, cos, sin, begin, end, dqkv);                        \
  }

CONVOY_ATTENTION_KERNELS(float)
CONVOY_ATTENTION_KERNELS(double)

}  // namespace convoy::parallel::kernels
