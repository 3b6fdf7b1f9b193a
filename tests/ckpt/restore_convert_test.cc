// Method: a slow program knows every value of each 16-bit format as a double and takes the nearest
// one, ties to the even pattern; the kernels must agree for every 16-bit input, for random inputs,
// and for inputs at, just below and just above the middle of neighbours. Integers: against the
// value itself. Speed is not checked here.
#include "ckpt/restore/convert.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

namespace convoy::ckpt {
namespace {

// The value of a 16-bit pattern, by the definition.
double value_of(Dtype dtype, uint16_t bits) {
  const int fraction_bits = dtype == Dtype::kFloat16 ? 10 : 7;
  const int bias = dtype == Dtype::kFloat16 ? 15 : 127;
  const int exponent = (bits & 0x7fff) >> fraction_bits;
  const int fraction = bits & ((1 << fraction_bits) - 1);
  const double sign = (bits & 0x8000) != 0 ? -1 : 1;
  if (exponent == 2 * bias + 1) {
    return fraction != 0 ? std::nan("") : sign * std::numeric_limits<double>::infinity();
  }
  if (exponent == 0) return sign * std::ldexp(fraction, 1 - bias - fraction_bits);
  return sign * std::ldexp((1 << fraction_bits) + fraction, exponent - bias - fraction_bits);
}

// Patterns 0 … of the finite values ≥ 0 ascend with their value; infinity stands where the next
// value would be.
uint16_t nearest(Dtype dtype, double x) {
  const uint16_t infinity = dtype == Dtype::kFloat16 ? 0x7c00 : 0x7f80;
  const uint16_t sign = std::signbit(x) ? 0x8000 : 0;
  const double magnitude = std::fabs(x);
  uint16_t low = 0, high = infinity;
  while (high - low > 1) {
    const auto middle = static_cast<uint16_t>((low + high) / 2);
    (value_of(dtype, middle) <= magnitude ? low : high) = middle;
  }
  const double below = value_of(dtype, low);
  const double above =
      high == infinity ? 2 * below - value_of(dtype, low - 1) : value_of(dtype, high);
  if (magnitude == std::numeric_limits<double>::infinity()) return sign | infinity;
  const double half = below + (above - below) / 2;  // exact
  const bool up = magnitude > half || (magnitude == half && (low & 1) != 0);
  return static_cast<uint16_t>(sign | (up ? high : low));
}

template <class To, class From>
std::vector<To> run(Dtype from, Dtype to, const std::vector<From>& in) {
  std::vector<std::byte> source(in.size() * sizeof(From) + 1), target(in.size() * sizeof(To) + 1);
  std::memcpy(source.data() + 1, in.data(), in.size() * sizeof(From));  // unaligned, both
  converter(from, to).value()(target.data() + 1, source.data() + 1, in.size());
  std::vector<To> out(in.size());
  std::memcpy(out.data(), target.data() + 1, in.size() * sizeof(To));
  return out;
}

std::vector<uint16_t> all_patterns() {
  std::vector<uint16_t> all(65536);
  for (size_t i = 0; i < all.size(); ++i) all[i] = static_cast<uint16_t>(i);
  return all;
}

// Values of the format, the middles of neighbours, and what lies just beside those.
template <class F>
std::vector<F> hard(Dtype dtype) {
  std::vector<F> in;
  for (uint32_t bits = 0; bits < 0x7fff; ++bits) {
    const double a = value_of(dtype, static_cast<uint16_t>(bits));
    const double b = value_of(dtype, static_cast<uint16_t>(bits + 1));
    if (!std::isfinite(a)) continue;
    const double middle = std::isfinite(b) ? a + (b - a) / 2 : a * (1 + std::ldexp(1.0, -9));
    const F m = static_cast<F>(middle);
    for (const F x : {static_cast<F>(a), m, std::nextafter(m, F{0}),
                      std::nextafter(m, std::numeric_limits<F>::infinity())}) {
      in.push_back(x);
      in.push_back(-x);
    }
  }
  std::mt19937_64 random(1);
  for (int i = 0; i < 300000; ++i) {
    if constexpr (sizeof(F) == 4) {
      in.push_back(std::bit_cast<float>(static_cast<uint32_t>(random())));
    } else {
      in.push_back(std::bit_cast<double>(random()));
      in.push_back(
          std::ldexp(static_cast<double>(random()), static_cast<int>(random() % 80) - 110));
    }
  }
  in.push_back(std::numeric_limits<F>::infinity());
  in.push_back(-std::numeric_limits<F>::infinity());
  in.push_back(std::numeric_limits<F>::max());
  in.push_back(std::numeric_limits<F>::denorm_min());
  return in;
}

template <class F>
void check_narrowing(Dtype from, Dtype to) {
  const std::vector<F> in = hard<F>(to);
  const std::vector<uint16_t> out = run<uint16_t>(from, to, in);
  size_t wrong = 0;
  for (size_t i = 0; i < in.size(); ++i) {
    if (std::isnan(in[i])) {
      wrong += std::isnan(value_of(to, out[i])) ? 0 : 1;
    } else if (out[i] != nearest(to, in[i])) {
      if (wrong++ == 0) {
        UNSCOPED_INFO(in[i] << " became " << out[i] << ", not " << nearest(to, in[i]));
      }
    }
  }
  REQUIRE(wrong == 0);
}

TEST_CASE("floats are narrowed to the nearest, ties to even") {
  for (const Dtype to : {Dtype::kFloat16, Dtype::kBFloat16}) {
    check_narrowing<float>(Dtype::kFloat32, to);
    check_narrowing<double>(Dtype::kFloat64, to);
  }
  const std::vector<double> in = {1.0 + 0x1p-24, 1.0 + 0x1.8p-23, 1e300, -0.0};
  const auto out = run<float>(Dtype::kFloat64, Dtype::kFloat32, in);
  REQUIRE(out[0] == 1.0F);
  REQUIRE(out[1] == 1.0F + 0x1p-22F);
  REQUIRE(std::isinf(out[2]));
  REQUIRE(std::signbit(out[3]));
}

TEST_CASE("16-bit floats widen exactly, and convert into each other") {
  const std::vector<uint16_t> all = all_patterns();
  for (const Dtype from : {Dtype::kFloat16, Dtype::kBFloat16}) {
    const Dtype other = from == Dtype::kFloat16 ? Dtype::kBFloat16 : Dtype::kFloat16;
    const auto floats = run<float>(from, Dtype::kFloat32, all);
    const auto doubles = run<double>(from, Dtype::kFloat64, all);
    const auto others = run<uint16_t>(from, other, all);
    size_t wrong = 0;
    for (size_t i = 0; i < all.size(); ++i) {
      const double truth = value_of(from, all[i]);
      if (std::isnan(truth)) {
        wrong += std::isnan(floats[i]) && std::isnan(doubles[i]) &&
                         std::isnan(value_of(other, others[i]))
                     ? 0
                     : 1;
        continue;
      }
      wrong += static_cast<double>(floats[i]) == truth && doubles[i] == truth &&
                       std::signbit(floats[i]) == std::signbit(truth) &&
                       others[i] == nearest(other, truth)
                   ? 0
                   : 1;
    }
    REQUIRE(wrong == 0);
  }
}

TEST_CASE("integers widen, and nothing else converts") {
  const std::vector<int8_t> in8 = {-128, -1, 0, 127};
  REQUIRE(run<int64_t>(Dtype::kInt8, Dtype::kInt64, in8) == std::vector<int64_t>{-128, -1, 0, 127});
  const std::vector<uint16_t> in16 = {0, 65535};
  REQUIRE(run<int32_t>(Dtype::kUInt16, Dtype::kInt32, in16) == std::vector<int32_t>{0, 65535});
  REQUIRE(run<uint64_t>(Dtype::kUInt16, Dtype::kUInt64, in16) == std::vector<uint64_t>{0, 65535});
  const auto integer = [](int d) { return d >= 5 && d <= 12; };
  const auto size = [](int d) { return dtype_bytes(static_cast<Dtype>(d)); };
  for (int from = 1; from <= 18; ++from) {
    for (int to = 1; to <= 18; ++to) {
      bool good = from == to || (from <= 4 && to <= 4);
      if (integer(from) && integer(to) && size(to) > size(from)) {
        good = good || from > 8 || to <= 8;  // unsigned to any, signed to signed
      }
      const auto found = converter(static_cast<Dtype>(from), static_cast<Dtype>(to));
      INFO(from << " to " << to);
      REQUIRE(found.ok() == good);
      if (!good) REQUIRE(found.status().code() == Code::kInvalidArgument);
    }
  }
}

}  // namespace
}  // namespace convoy::ckpt
