#pragma once

// The reduction kernels, compiled once for each instruction set by the files reduce_*.cc with their
// own compiler flags. Everything here has internal linkage and uses no inline function of other
// headers but the compiler's own: the linker must not merge code of different instruction sets.
//
// Work goes in tiles of two cache lines: accumulators stay in registers and all inputs are read
// side by side. (Reducing blocks of one input after the other was measured two to three times
// slower on large data.) Vectors are the compiler's own vector types. Compiled with -fwrapv:
// integers wrap.

#include "src/comm/host/reduce_kernels.h"
#include <convoy/comm/host/collective.h>

#include <cstddef>
#include <cstdint>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

namespace convoy::host {
namespace {

constexpr size_t kTileBytes = 128;
#if defined(__AVX512F__)
constexpr size_t kVectorBytes = 64;
#elif defined(__AVX__)
constexpr size_t kVectorBytes = 32;
#else
constexpr size_t kVectorBytes = 16;
#endif

template <class T>
struct VectorOf {
  typedef T Type __attribute__((vector_size(kVectorBytes)));
};
typedef uint16_t Halves __attribute__((vector_size(kVectorBytes / 2)));

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};
template <class T>
struct Complex {
  T re, im;
};

// --- One vector from and to memory, in the type that accumulates.

template <class T>
struct Lanes {
  using Acc = T;
  using V = typename VectorOf<T>::Type;
  static constexpr size_t kBytes = kVectorBytes;  // in memory
  static V load(const char* at) {
    V v;
    __builtin_memcpy(&v, at, sizeof v);
    return v;
  }
  static void store(V v, char* at) { __builtin_memcpy(at, &v, sizeof v); }
};

template <>
struct Lanes<BFloat> {
  using Acc = float;
  using V = VectorOf<float>::Type;
  using Bits = VectorOf<uint32_t>::Type;
  static constexpr size_t kBytes = kVectorBytes / 2;
  static V load(const char* at) {
    Halves h;
    __builtin_memcpy(&h, at, sizeof h);
    return reinterpret_cast<V>(__builtin_convertvector(h, Bits) << 16);
  }
  static void store(V v, char* at) {
    const Bits bits = reinterpret_cast<Bits>(v);
    const Bits rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;  // to nearest even
    const Bits quiet = (bits >> 16) | 0x40;
    const Halves h =
        __builtin_convertvector((bits & 0x7fffffff) > 0x7f800000 ? quiet : rounded, Halves);
    __builtin_memcpy(at, &h, sizeof h);
  }
};

inline float bits_to_float(uint32_t bits) {
  float value;
  __builtin_memcpy(&value, &bits, sizeof value);
  return value;
}

inline uint32_t float_to_bits(float value) {
  uint32_t bits;
  __builtin_memcpy(&bits, &value, sizeof bits);
  return bits;
}

inline float half_to_float(uint16_t half) {
  const uint32_t sign = static_cast<uint32_t>(half & 0x8000) << 16;
  const uint32_t exponent = (half >> 10) & 31, mantissa = half & 1023;
  if (exponent == 31) {
    return bits_to_float(sign | 0x7f800000 | mantissa << 13 | (mantissa != 0 ? 0x400000 : 0));
  }
  if (exponent != 0) return bits_to_float(sign | (exponent + 112) << 23 | mantissa << 13);
  const float tiny = static_cast<float>(mantissa) * 5.9604644775390625e-8F;  // 2^-24
  return sign != 0 ? -tiny : tiny;
}

inline uint16_t float_to_half(float value) {
  const uint32_t bits = float_to_bits(value), magnitude = bits & 0x7fffffff;
  const uint32_t sign = (bits >> 16) & 0x8000;
  if (magnitude > 0x7f800000) {
    return static_cast<uint16_t>(sign | 0x7e00 | ((magnitude >> 13) & 0x3ff));
  }
  if (magnitude >= 0x47800000) return static_cast<uint16_t>(sign | 0x7c00);
  if (magnitude < 0x38800000) {  // subnormal: let the addition round
    const float shifted = bits_to_float(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (float_to_bits(shifted) - 0x3f000000));
  }
  const uint32_t rounded = magnitude - 0x38000000 + 0xfff + ((magnitude >> 13) & 1);
  return static_cast<uint16_t>(sign | rounded >> 13);
}

template <>
struct Lanes<Half> {
  using Acc = float;
  using V = VectorOf<float>::Type;
  static constexpr size_t kBytes = kVectorBytes / 2;
  static V load(const char* at) {
    Halves h;
    __builtin_memcpy(&h, at, sizeof h);
#if defined(__AVX512F__)
    return reinterpret_cast<V>(_mm512_cvtph_ps(reinterpret_cast<__m256i>(h)));
#elif defined(__F16C__)
    return reinterpret_cast<V>(_mm256_cvtph_ps(reinterpret_cast<__m128i>(h)));
#else
    V v{};
    for (size_t i = 0; i < kVectorBytes / 4; ++i) v[i] = half_to_float(h[i]);
    return v;
#endif
  }
  static void store(V v, char* at) {
#if defined(__AVX512F__)
    const auto h = _mm512_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#elif defined(__F16C__)
    const auto h = _mm256_cvtps_ph(v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
#else
    Halves h{};
    for (size_t i = 0; i < kVectorBytes / 4; ++i) h[i] = float_to_half(v[i]);
#endif
    __builtin_memcpy(at, &h, sizeof h);
  }
};

// --- The operations, on vectors.

struct Sum {
  template <class V>
  static V apply(V a, V b) {
    return a + b;
  }
};
struct Product {
  template <class V>
  static V apply(V a, V b) {
    return a * b;
  }
};
// `b != b`: NaN is passed on, from either side.
struct Min {
  template <class V>
  static V apply(V a, V b) {
    return ((b < a) | (b != b)) ? b : a;
  }
};
struct Max {
  template <class V>
  static V apply(V a, V b) {
    return ((b > a) | (b != b)) ? b : a;
  }
};
struct Band {
  template <class V>
  static V apply(V a, V b) {
    return a & b;
  }
};
struct Bor {
  template <class V>
  static V apply(V a, V b) {
    return a | b;
  }
};
struct Bxor {
  template <class V>
  static V apply(V a, V b) {
    return a ^ b;
  }
};

enum class Extra { kNone, kDivide, kPremultiply };

template <class A>
constexpr bool kIsFloating = static_cast<A>(0.5) != 0;

template <class A, class V>
inline V multiply(V v, double factor) {
  const A f = static_cast<A>(factor);
  return v * f;
}

template <class A, class V>
inline V divide(V v, size_t by) {
  if constexpr (kIsFloating<A>) {
    const A d = static_cast<A>(by);
    return v / d;
  } else {
    // The number of ranks may not fit in A.
    for (size_t i = 0; i < kVectorBytes / sizeof(A); ++i) {
      v[i] = static_cast<A>(static_cast<int64_t>(v[i]) / static_cast<int64_t>(by));
    }
    return v;
  }
}

// --- Tiles.

// Stores one tile; `stream`: past the caches, `to` is a line's beginning.
inline void store_tile(char* to, const char* from, bool stream) {
#if defined(__AVX512F__)
  if (stream) {
    const auto* in = reinterpret_cast<const __m512i*>(from);
    auto* out = reinterpret_cast<__m512i*>(to);
    _mm512_stream_si512(out, _mm512_load_si512(in));
    _mm512_stream_si512(out + 1, _mm512_load_si512(in + 1));
    return;
  }
#elif defined(__AVX__)
  if (stream) {
    const auto* in = reinterpret_cast<const __m256i*>(from);
    auto* out = reinterpret_cast<__m256i*>(to);
    for (int k = 0; k < 4; ++k) _mm256_stream_si256(out + k, _mm256_load_si256(in + k));
    return;
  }
#elif defined(__SSE2__)
  if (stream) {
    const auto* in = reinterpret_cast<const __m128i*>(from);
    auto* out = reinterpret_cast<__m128i*>(to);
    for (int k = 0; k < 8; ++k) _mm_stream_si128(out + k, _mm_load_si128(in + k));
    return;
  }
#endif
  __builtin_memcpy(to, from, kTileBytes);
}

// Reduces the tile that lies `offset` bytes into every input. `valid` bytes of it exist: the rest
// of a last, partial tile is read as zeros.
template <class T, class Op, Extra extra>
__attribute__((always_inline)) inline void reduce_tile(const ReduceArguments& a, size_t offset,
                                                       size_t valid, char* result) {
  using L = Lanes<T>;
  using A = typename L::Acc;
  constexpr size_t kVectors = kTileBytes / L::kBytes;
  alignas(64) char padded[kTileBytes] = {};
  const auto input = [&](size_t j) -> const char* {
    const char* at = static_cast<const char*>(a.in[j]) + offset;
    if (valid == kTileBytes) return at;
    __builtin_memcpy(padded, at, valid);
    return padded;
  };
  typename L::V acc[kVectors];
  const char* at = input(0);
#pragma GCC unroll 16
  for (size_t v = 0; v < kVectors; ++v) {
    acc[v] = L::load(at + v * L::kBytes);
    if constexpr (extra == Extra::kPremultiply) acc[v] = multiply<A>(acc[v], a.factors[0]);
  }
  for (size_t j = 1; j < a.n; ++j) {
    at = input(j);
#pragma GCC unroll 16
    for (size_t v = 0; v < kVectors; ++v) {
      auto next = L::load(at + v * L::kBytes);
      if constexpr (extra == Extra::kPremultiply) next = multiply<A>(next, a.factors[j]);
      acc[v] = Op::apply(acc[v], next);
    }
  }
#pragma GCC unroll 16
  for (size_t v = 0; v < kVectors; ++v) {
    if constexpr (extra == Extra::kDivide) acc[v] = divide<A>(acc[v], a.n);
    L::store(acc[v], result + v * L::kBytes);
  }
}

template <class T, class Op, Extra extra>
void reduce(const ReduceArguments& a) {
  alignas(64) char result[kTileBytes];
  const size_t bytes = a.count * sizeof(T);
  size_t offset = 0;
  for (; offset + kTileBytes <= bytes; offset += kTileBytes) {
    reduce_tile<T, Op, extra>(a, offset, kTileBytes, result);
    for (size_t k = 0; k < a.outs; ++k) {
      store_tile(static_cast<char*>(a.out[k]) + offset, result, a.stream);
    }
  }
  if (offset == bytes) return;
  reduce_tile<T, Op, extra>(a, offset, bytes - offset, result);
  for (size_t k = 0; k < a.outs; ++k) {
    __builtin_memcpy(static_cast<char*>(a.out[k]) + offset, result, bytes - offset);
  }
}

// Complex numbers, where real and imaginary part go their own ways.
template <class T, class Op, Extra extra>
void reduce_parts(const ReduceArguments& a) {
  ReduceArguments parts = a;
  parts.count *= 2;
  reduce<T, Op, extra>(parts);
}

template <class T>
Complex<T> load_complex(const void* data, size_t i) {
  Complex<T> value;
  __builtin_memcpy(&value, static_cast<const char*>(data) + i * sizeof value, sizeof value);
  return value;
}

template <class T>
void multiply_complex(const ReduceArguments& a) {
  for (size_t i = 0; i < a.count; ++i) {
    Complex<T> acc = load_complex<T>(a.in[0], i);
    for (size_t j = 1; j < a.n; ++j) {
      const Complex<T> b = load_complex<T>(a.in[j], i);
      acc = {acc.re * b.re - acc.im * b.im, acc.re * b.im + acc.im * b.re};
    }
    for (size_t k = 0; k < a.outs; ++k) {
      __builtin_memcpy(static_cast<char*>(a.out[k]) + i * sizeof acc, &acc, sizeof acc);
    }
  }
}

// --- Which kernel.

template <class T>
ReduceKernel arithmetic(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce<T, Sum, Extra::kNone>;
    case ReduceOp::kAvg:
      return reduce<T, Sum, Extra::kDivide>;
    case ReduceOp::kPremulSum:
      return reduce<T, Sum, Extra::kPremultiply>;
    case ReduceOp::kProduct:
      return reduce<T, Product, Extra::kNone>;
    case ReduceOp::kMin:
      return reduce<T, Min, Extra::kNone>;
    case ReduceOp::kMax:
      return reduce<T, Max, Extra::kNone>;
    default:
      return nullptr;
  }
}

template <class T>
ReduceKernel integer(ReduceOp op) {
  switch (op) {
    case ReduceOp::kBand:
      return reduce<T, Band, Extra::kNone>;
    case ReduceOp::kBor:
      return reduce<T, Bor, Extra::kNone>;
    case ReduceOp::kBxor:
      return reduce<T, Bxor, Extra::kNone>;
    default:
      return arithmetic<T>(op);
  }
}

template <class T>
ReduceKernel complex(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
      return reduce_parts<T, Sum, Extra::kNone>;
    case ReduceOp::kAvg:
      return reduce_parts<T, Sum, Extra::kDivide>;
    case ReduceOp::kPremulSum:
      return reduce_parts<T, Sum, Extra::kPremultiply>;
    case ReduceOp::kProduct:
      return multiply_complex<T>;
    default:
      return nullptr;
  }
}

// The values are 0 and 1.
ReduceKernel boolean(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax:
    case ReduceOp::kBor:
      return reduce<uint8_t, Bor, Extra::kNone>;
    case ReduceOp::kProduct:
    case ReduceOp::kMin:
    case ReduceOp::kBand:
      return reduce<uint8_t, Band, Extra::kNone>;
    case ReduceOp::kBxor:
      return reduce<uint8_t, Bxor, Extra::kNone>;
    default:
      return nullptr;
  }
}

ReduceKernel kernel_of(DType dtype, ReduceOp op) {
  switch (dtype) {
    case DType::kU8:
      return integer<uint8_t>(op);
    case DType::kI8:
      return integer<int8_t>(op);
    case DType::kI16:
      return integer<int16_t>(op);
    case DType::kI32:
      return integer<int32_t>(op);
    case DType::kI64:
      return integer<int64_t>(op);
    case DType::kF16:
      return arithmetic<Half>(op);
    case DType::kBF16:
      return arithmetic<BFloat>(op);
    case DType::kF32:
      return arithmetic<float>(op);
    case DType::kF64:
      return arithmetic<double>(op);
    case DType::kBool:
      return boolean(op);
    case DType::kC64:
      return complex<float>(op);
    case DType::kC128:
      return complex<double>(op);
  }
  return nullptr;
}

}  // namespace
}  // namespace convoy::host
