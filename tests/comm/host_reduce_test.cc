// The reduction kernels against a loop over long double or integers, for every dtype and reduction
// that has a meaning; the others must be refused by name. Values are small enough that the
// reference is exact where the type is (integers, bool) and within one rounding where it is not.
// Also: f16 and bf16 rounding (to nearest even, once), NaN, infinities and subnormals, against
// conversions through all 65,536 bit patterns. Every instruction set that this processor has is
// tried.
#include "src/comm/host/reduce_kernels.h"

#include <catch2/catch.hpp>

#include <cmath>
#include <complex>
#include <cstring>
#include <random>
#include <vector>

namespace convoy::host {
ReduceKernel reduce_kernel_base(DType dtype, ReduceOp op);
#if defined(__x86_64__)
ReduceKernel reduce_kernel_avx2(DType dtype, ReduceOp op);
ReduceKernel reduce_kernel_avx512(DType dtype, ReduceOp op);
#endif
}  // namespace convoy::host

using namespace convoy;
using namespace convoy::host;

namespace {

using Finder = ReduceKernel (*)(DType, ReduceOp);

std::vector<Finder> finders() {
  std::vector<Finder> list = {reduce_kernel_base};
#if defined(__x86_64__)
  if (__builtin_cpu_supports("avx2")) list.push_back(reduce_kernel_avx2);
  if (__builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) {
    list.push_back(reduce_kernel_avx512);
  }
#endif
  return list;
}

constexpr ReduceOp kOps[] = {ReduceOp::kSum, ReduceOp::kAvg,  ReduceOp::kProduct,
                             ReduceOp::kMin, ReduceOp::kMax,  ReduceOp::kBand,
                             ReduceOp::kBor, ReduceOp::kBxor, ReduceOp::kPremulSum};

// Runs the kernel three times: plain, to two results, and streaming; all must be equal.
void apply(ReduceKernel kernel, const void* const* in, size_t n, const double* factors,
           size_t count, void* out) {
  constexpr size_t kMax = 64 * 1024;
  alignas(64) static char first[kMax], second[kMax];
  std::memset(first, 1, kMax);
  std::memset(second, 2, kMax);
  void* both[] = {first, second + 1};
  kernel({in, n, factors, count, both, 2, false});
  // Not one byte too many, and equal: the second is longer than any element size times `count`.
  size_t bytes = 0;
  while (bytes < kMax - 1 && first[bytes] == second[bytes + 1]) ++bytes;
  std::memset(second, 3, kMax);
  void* streamed[] = {second};
  kernel({in, n, factors, count, streamed, 1, true});
  __sync_synchronize();
  if (std::memcmp(first, second, bytes) != 0) FAIL("streaming gives another result");
  void* last[] = {out};
  kernel({in, n, factors, count, last, 1, false});
}

float from_bf16(uint16_t bits) {
  const uint32_t wide = static_cast<uint32_t>(bits) << 16;
  float value;
  std::memcpy(&value, &wide, 4);
  return value;
}

float from_f16(uint16_t h) {
  const int exponent = (h >> 10) & 31, mantissa = h & 1023;
  const double sign = (h & 0x8000) != 0 ? -1 : 1;
  if (exponent == 31) return static_cast<float>(mantissa != 0 ? NAN : sign * INFINITY);
  if (exponent == 0) return static_cast<float>(sign * std::ldexp(mantissa, -24));
  return static_cast<float>(sign * std::ldexp(1024 + mantissa, exponent - 25));
}

// The nearest value of a 16-bit format, ties to the even pattern, by search.
template <float (*From)(uint16_t)>
uint16_t nearest(float value) {
  uint16_t best = 0;
  double distance = INFINITY;
  for (uint32_t h = 0; h < 0x8000; ++h) {
    const double candidate = From(static_cast<uint16_t>(h));
    if (!std::isfinite(candidate)) break;
    const double d = std::abs(std::abs(static_cast<double>(value)) - candidate);
    if (d < distance || (d == distance && h % 2 == 0)) {
      distance = d;
      best = static_cast<uint16_t>(h);
    }
  }
  return static_cast<uint16_t>(best | (std::signbit(value) ? 0x8000 : 0));
}

template <class T>
T reference(ReduceOp op, const std::vector<T>& v, const std::vector<double>& factors) {
  T acc = op == ReduceOp::kPremulSum ? static_cast<T>(v[0] * static_cast<T>(factors[0])) : v[0];
  for (size_t j = 1; j < v.size(); ++j) {
    switch (op) {
      case ReduceOp::kSum:
      case ReduceOp::kAvg:
        acc = static_cast<T>(acc + v[j]);
        break;
      case ReduceOp::kPremulSum:
        acc = static_cast<T>(acc + static_cast<T>(v[j] * static_cast<T>(factors[j])));
        break;
      case ReduceOp::kProduct:
        acc = static_cast<T>(acc * v[j]);
        break;
      default:
        if constexpr (!std::is_class_v<T>) {
          if (op == ReduceOp::kMin) acc = std::min(acc, v[j]);
          if (op == ReduceOp::kMax) acc = std::max(acc, v[j]);
          if constexpr (std::is_integral_v<T>) {
            if (op == ReduceOp::kBand) acc = static_cast<T>(acc & v[j]);
            if (op == ReduceOp::kBor) acc = static_cast<T>(acc | v[j]);
            if (op == ReduceOp::kBxor) acc = static_cast<T>(acc ^ v[j]);
          }
        }
    }
  }
  if (op == ReduceOp::kAvg) {
    if constexpr (std::is_integral_v<T>) {
      acc = static_cast<T>(static_cast<int64_t>(acc) / static_cast<int64_t>(v.size()));
    } else {
      acc = acc / static_cast<T>(v.size());
    }
  }
  return acc;
}

template <class T>
void check_type(DType dtype, const std::function<bool(ReduceOp)>& defined, uint32_t seed) {
  std::mt19937 random(seed);
  for (const Finder find : finders()) {
    for (const ReduceOp op : kOps) {
      const ReduceKernel kernel = find(dtype, op);
      INFO(dtype_name(dtype) << " " << reduce_name(op) << ", seed " << seed);
      CHECK((kernel != nullptr) == defined(op));
      if (kernel == nullptr) continue;
      for (const size_t n : {1, 2, 3, 8}) {
        for (const size_t count : {0, 1, 7, 64, 1000, 1025}) {
          std::vector<std::vector<T>> in(n, std::vector<T>(count));
          std::vector<const void*> at;
          std::vector<double> factors;
          for (auto& one : in) {
            for (T& x : one) x = static_cast<T>(static_cast<int>(random() % 7) - 3);
            at.push_back(one.data());
            factors.push_back(static_cast<double>(random() % 3));
          }
          std::vector<T> out(count), expected(count);
          for (size_t i = 0; i < count; ++i) {
            std::vector<T> column;
            for (const auto& one : in) column.push_back(one[i]);
            expected[i] = reference<T>(op, column, factors);
          }
          apply(kernel, at.data(), n, factors.data(), count, out.data());
          CHECK(out == expected);
          apply(kernel, at.data(), n, factors.data(), count, in[0].data());  // in place
          CHECK(in[0] == expected);
        }
      }
    }
  }
}

bool is_bitwise(ReduceOp op) {
  return op == ReduceOp::kBand || op == ReduceOp::kBor || op == ReduceOp::kBxor;
}

}  // namespace

TEST_CASE("kernels equal a plain loop", "[host]") {
  const auto any = [](ReduceOp) { return true; };
  const auto real = [](ReduceOp op) { return !is_bitwise(op); };
  const auto complex = [](ReduceOp op) {
    return !is_bitwise(op) && op != ReduceOp::kMin && op != ReduceOp::kMax;
  };
  check_type<uint8_t>(DType::kU8, any, 1);
  check_type<int8_t>(DType::kI8, any, 2);
  check_type<int16_t>(DType::kI16, any, 3);
  check_type<int32_t>(DType::kI32, any, 4);
  check_type<int64_t>(DType::kI64, any, 5);
  check_type<float>(DType::kF32, real, 6);
  check_type<double>(DType::kF64, real, 7);
  check_type<std::complex<float>>(DType::kC64, complex, 8);
  check_type<std::complex<double>>(DType::kC128, complex, 9);
}

TEST_CASE("bool: or, and, exclusive or", "[host]") {
  const std::vector<uint8_t> a = {0, 0, 1, 1}, b = {0, 1, 0, 1};
  const void* in[] = {a.data(), b.data()};
  const double factors[] = {1, 1};
  const auto both_of = [&](ReduceOp op) {
    std::vector<uint8_t> out(4);
    apply(find_reduce_kernel(DType::kBool, op).value(), in, 2, factors, 4, out.data());
    return out;
  };
  const std::vector<uint8_t> either = {0, 1, 1, 1}, both = {0, 0, 0, 1}, one = {0, 1, 1, 0};
  for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMax, ReduceOp::kBor}) {
    CHECK(both_of(op) == either);
  }
  for (const ReduceOp op : {ReduceOp::kProduct, ReduceOp::kMin, ReduceOp::kBand}) {
    CHECK(both_of(op) == both);
  }
  CHECK(both_of(ReduceOp::kBxor) == one);
  const auto refused = find_reduce_kernel(DType::kBool, ReduceOp::kAvg);
  CHECK(refused.status().code() == Code::kInvalidArgument);
  CHECK(refused.status().message() == "the reduction 'avg' is not defined for bool");
}

TEST_CASE("16-bit floats widen exactly and round once, to nearest even", "[host]") {
  for (const Finder find : finders()) {
    for (const DType dtype : {DType::kF16, DType::kBF16}) {
      INFO(dtype_name(dtype));
      const bool half = dtype == DType::kF16;
      const ReduceKernel sum = find(dtype, ReduceOp::kSum);
      // Every pattern, alone: unchanged, and NaN stays NaN.
      std::vector<uint16_t> all(4096), out(4096);
      for (uint32_t from = 0; from < 65536; from += 4096) {
        for (uint32_t i = 0; i < 4096; ++i) all[i] = static_cast<uint16_t>(from + i);
        const void* in[] = {all.data()};
        apply(sum, in, 1, nullptr, 4096, out.data());
        for (size_t i = 0; i < 4096; ++i) {
          const float x = half ? from_f16(all[i]) : from_bf16(all[i]);
          const float y = half ? from_f16(out[i]) : from_bf16(out[i]);
          if (!(std::isnan(x) ? std::isnan(y) : out[i] == all[i])) FAIL("pattern " << all[i]);
        }
      }
      // Sums of three: exact in f32 up to its rounding, then one rounding. Odd counts use the tail.
      std::mt19937 random(77);
      std::vector<uint16_t> v[3];
      for (auto& one : v) {
        for (int i = 0; i < 203; ++i) {
          const auto bits = static_cast<uint16_t>(random());
          const bool huge = half ? (bits & 0x7c00) >= 0x7000 : (bits & 0x7f80) >= 0x4f80;
          one.push_back(huge ? static_cast<uint16_t>(bits & 0x83ff) : bits);
        }
      }
      const void* in[] = {v[0].data(), v[1].data(), v[2].data()};
      apply(sum, in, 3, nullptr, 203, out.data());
      for (size_t i = 0; i < 203; ++i) {
        float s = 0;
        for (int j = 0; j < 3; ++j) {
          const float x = half ? from_f16(v[j][i]) : from_bf16(v[j][i]);
          s = j == 0 ? x : s + x;
        }
        const uint16_t expected = half ? nearest<from_f16>(s) : nearest<from_bf16>(s);
        CHECK(out[i] == expected);
      }
      // Overflow becomes infinity, NaN is passed on by every reduction.
      const uint16_t biggest = half ? 0x7bff : 0x7f7f, infinity = half ? 0x7c00 : 0x7f80;
      const uint16_t nan = half ? 0x7e00 : 0x7fc0;
      const void* two[] = {&biggest, &biggest};
      uint16_t result = 0;
      apply(sum, two, 2, nullptr, 1, &result);
      CHECK(result == infinity);
      for (const ReduceOp op : {ReduceOp::kSum, ReduceOp::kMin, ReduceOp::kMax}) {
        const uint16_t other = 0x3c00;
        const void* first[] = {&nan, &other};
        const void* second[] = {&other, &nan};
        apply(find(dtype, op), first, 2, nullptr, 1, &result);
        CHECK(std::isnan(half ? from_f16(result) : from_bf16(result)));
        apply(find(dtype, op), second, 2, nullptr, 1, &result);
        CHECK(std::isnan(half ? from_f16(result) : from_bf16(result)));
      }
    }
  }
}
