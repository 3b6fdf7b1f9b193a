#pragma once

// The reduction kernels, compiled once for each instruction set by the files reduce_*.cc, each with
// its own namespace and compiler flags. Everything here has internal linkage and uses no inline
// function of other headers: the linker must not merge code of different instruction sets.

#include "src/comm/host/reduce_kernels.h"
#include <convoy/comm/host/collective.h>

#include <cstddef>
#include <cstdint>
#include <cstring>
#if defined(__F16C__)
#include <immintrin.h>
#endif

namespace convoy::host {
namespace {

constexpr size_t kTile = 1024;  // elements whose accumulators are kept at once

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};
struct Bool {
  uint8_t value;
};
template <class T>
struct Complex {
  T re, im;
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

// Accumulator of each element type, and the conversions.
template <class T>
struct Traits {
  using Acc = T;
  static void load(const T* in, Acc* acc, size_t n) { __builtin_memcpy(acc, in, n * sizeof(T)); }
  static void store(const Acc* acc, T* out, size_t n) { __builtin_memcpy(out, acc, n * sizeof(T)); }
};

template <>
struct Traits<BFloat> {
  using Acc = float;
  static void load(const BFloat* in, float* acc, size_t n) {
    for (size_t i = 0; i < n; ++i) acc[i] = bits_to_float(static_cast<uint32_t>(in[i].bits) << 16);
  }
  static void store(const float* acc, BFloat* out, size_t n) {
    for (size_t i = 0; i < n; ++i) {
      const uint32_t bits = float_to_bits(acc[i]);
      const uint32_t rounded = (bits + 0x7fff + ((bits >> 16) & 1)) >> 16;
      const uint32_t quiet = (bits >> 16) | 0x40;
      const bool is_nan = (bits & 0x7fffffff) > 0x7f800000;
      out[i].bits = static_cast<uint16_t>(is_nan ? quiet : rounded);
    }
  }
};

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
struct Traits<Half> {
  using Acc = float;
  static void load(const Half* in, float* acc, size_t n) {
    size_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(in + i));
      _mm256_storeu_ps(acc + i, _mm256_cvtph_ps(half));
    }
#endif
    for (; i < n; ++i) acc[i] = half_to_float(in[i].bits);
  }
  static void store(const float* acc, Half* out, size_t n) {
    size_t i = 0;
#if defined(__F16C__)
    for (; i + 8 <= n; i += 8) {
      const __m128i half = _mm256_cvtps_ph(_mm256_loadu_ps(acc + i), _MM_FROUND_TO_NEAREST_INT);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(out + i), half);
    }
#endif
    for (; i < n; ++i) out[i].bits = float_to_half(acc[i]);
  }
};

template <class T>
struct IsFloating {
  static constexpr bool value = false;
};
template <>
struct IsFloating<float> {
  static constexpr bool value = true;
};
template <>
struct IsFloating<double> {
  static constexpr bool value = true;
};

// Integers add and multiply as unsigned numbers: they wrap.
template <class T>
struct Wrapping {
  using Type = T;
};
template <>
struct Wrapping<int8_t> {
  using Type = uint8_t;
};
template <>
struct Wrapping<uint8_t> {
  using Type = uint32_t;  // not int, to which it would be promoted
};
template <>
struct Wrapping<int16_t> {
  using Type = uint32_t;
};
template <>
struct Wrapping<int32_t> {
  using Type = uint32_t;
};
template <>
struct Wrapping<int64_t> {
  using Type = uint64_t;
};

struct Sum {
  template <class T>
  static T apply(T a, T b) {
    using W = typename Wrapping<T>::Type;
    return static_cast<T>(static_cast<W>(a) + static_cast<W>(b));
  }
  template <class T>
  static Complex<T> apply(Complex<T> a, Complex<T> b) {
    return {a.re + b.re, a.im + b.im};
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value | b.value)}; }
};
struct Product {
  template <class T>
  static T apply(T a, T b) {
    using W = typename Wrapping<T>::Type;
    return static_cast<T>(static_cast<W>(a) * static_cast<W>(b));
  }
  template <class T>
  static Complex<T> apply(Complex<T> a, Complex<T> b) {
    return {a.re * b.re - a.im * b.im, a.re * b.im + a.im * b.re};
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value & b.value)}; }
};
struct Min {
  template <class T>
  static T apply(T a, T b) {
    return b < a || (IsFloating<T>::value && b != b) ? b : a;
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value & b.value)}; }
};
struct Max {
  template <class T>
  static T apply(T a, T b) {
    return b > a || (IsFloating<T>::value && b != b) ? b : a;
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value | b.value)}; }
};
struct Band {
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>(a & b);
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value & b.value)}; }
};
struct Bor {
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>(a | b);
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value | b.value)}; }
};
struct Bxor {
  template <class T>
  static T apply(T a, T b) {
    return static_cast<T>(a ^ b);
  }
  static Bool apply(Bool a, Bool b) { return {static_cast<uint8_t>(a.value ^ b.value)}; }
};

template <class A>
inline void scale(A* acc, size_t n, double factor) {
  const A f = static_cast<A>(factor);
  for (size_t i = 0; i < n; ++i) acc[i] = Product::apply(acc[i], f);
}
template <class T>
inline void scale(Complex<T>* acc, size_t n, double factor) {
  const T f = static_cast<T>(factor);
  for (size_t i = 0; i < n; ++i) acc[i] = {acc[i].re * f, acc[i].im * f};
}
template <class A>
inline void divide(A* acc, size_t n, size_t by) {
  if constexpr (IsFloating<A>::value) {
    const A d = static_cast<A>(by);
    for (size_t i = 0; i < n; ++i) acc[i] = acc[i] / d;
  } else {
    const auto d = static_cast<int64_t>(by);  // n may not fit in A
    for (size_t i = 0; i < n; ++i) acc[i] = static_cast<A>(acc[i] / d);
  }
}
template <class T>
inline void divide(Complex<T>* acc, size_t n, size_t by) {
  const T d = static_cast<T>(by);
  for (size_t i = 0; i < n; ++i) acc[i] = {acc[i].re / d, acc[i].im / d};
}

enum class Extra { kNone, kDivide, kPremultiply };

template <class T, class Op, Extra extra>
void reduce(const void* const* in, size_t n, const double* factors, size_t count, void* out) {
  using Acc = typename Traits<T>::Acc;
  alignas(64) Acc acc[kTile];
  alignas(64) Acc next[kTile];
  for (size_t from = 0; from < count; from += kTile) {
    const size_t tile = count - from < kTile ? count - from : kTile;
    Traits<T>::load(static_cast<const T*>(in[0]) + from, acc, tile);
    if constexpr (extra == Extra::kPremultiply) scale(acc, tile, factors[0]);
    for (size_t j = 1; j < n; ++j) {
      Traits<T>::load(static_cast<const T*>(in[j]) + from, next, tile);
      if constexpr (extra == Extra::kPremultiply) scale(next, tile, factors[j]);
      for (size_t i = 0; i < tile; ++i) acc[i] = Op::apply(acc[i], next[i]);
    }
    if constexpr (extra == Extra::kDivide) divide(acc, tile, n);
    Traits<T>::store(acc, static_cast<T*>(out) + from, tile);
  }
}

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
    default:
      return nullptr;
  }
}

template <class T>
ReduceKernel ordered(ReduceOp op) {
  switch (op) {
    case ReduceOp::kMin:
      return reduce<T, Min, Extra::kNone>;
    case ReduceOp::kMax:
      return reduce<T, Max, Extra::kNone>;
    default:
      return arithmetic<T>(op);
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
      return ordered<T>(op);
  }
}

ReduceKernel boolean(ReduceOp op) {
  switch (op) {
    case ReduceOp::kSum:
    case ReduceOp::kMax:
    case ReduceOp::kBor:
      return reduce<Bool, Bor, Extra::kNone>;
    case ReduceOp::kProduct:
    case ReduceOp::kMin:
    case ReduceOp::kBand:
      return reduce<Bool, Band, Extra::kNone>;
    case ReduceOp::kBxor:
      return reduce<Bool, Bxor, Extra::kNone>;
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
      return ordered<Half>(op);
    case DType::kBF16:
      return ordered<BFloat>(op);
    case DType::kF32:
      return ordered<float>(op);
    case DType::kF64:
      return ordered<double>(op);
    case DType::kBool:
      return boolean(op);
    case DType::kC64:
      return arithmetic<Complex<float>>(op);
    case DType::kC128:
      return arithmetic<Complex<double>>(op);
  }
  return nullptr;
}

}  // namespace
}  // namespace convoy::host
