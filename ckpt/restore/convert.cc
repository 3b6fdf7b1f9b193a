// Conversions between dtypes. Each rounds once, to nearest, ties to even: a double never goes to a
// half by way of a float.
#include "ckpt/restore/convert.h"

#include <bit>
#include <cstdint>
#include <cstring>
#include <limits>
#include <string>
#include <type_traits>

namespace convoy::ckpt {
namespace {

struct Half {
  uint16_t bits;
};
struct BFloat {
  uint16_t bits;
};

float widen(BFloat x) {
  return std::bit_cast<float>(static_cast<uint32_t>(x.bits) << 16);
}

float widen(Half x) {
  const uint32_t sign = (x.bits & 0x8000U) << 16;
  const uint32_t exponent = (x.bits >> 10) & 31U;
  const uint32_t fraction = x.bits & 0x3ffU;
  if (exponent == 31) return std::bit_cast<float>(sign | 0x7f800000U | fraction << 13);
  if (exponent != 0) return std::bit_cast<float>(sign | (exponent + 112) << 23 | fraction << 13);
  const float magnitude = static_cast<float>(fraction) * 0x1p-24F;  // subnormal or zero: exact
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

// The nearest value of a 16-bit format with kFraction bits of fraction and exponents as kBias says;
// from the bits of an F (float, double), so that rounding happens once.
template <int kFraction, int kBias, class F>
uint16_t narrow_bits(F x) {
  using U = std::conditional_t<sizeof(F) == 4, uint32_t, uint64_t>;
  constexpr int kFrom = std::numeric_limits<F>::digits - 1;  // bits of fraction of F
  constexpr int kFromBias = std::numeric_limits<F>::max_exponent - 1;
  constexpr int kExponents = (1 << (15 - kFraction)) - 1;  // the exponent of infinity
  const U bits = std::bit_cast<U>(x);
  const auto sign = static_cast<uint16_t>(bits >> (sizeof(F) * 8 - 16) & 0x8000U);
  const auto exponent =
      static_cast<int>(bits >> kFrom & ((U{1} << (sizeof(F) * 8 - 1 - kFrom)) - 1));
  const U fraction = bits & ((U{1} << kFrom) - 1);
  constexpr auto kInfinity = static_cast<uint16_t>(kExponents << kFraction);
  if (exponent == 2 * kFromBias + 1) {  // infinity, or a NaN, which stays one and becomes quiet
    const auto payload = static_cast<uint16_t>(fraction >> (kFrom - kFraction));
    const auto quiet = static_cast<uint16_t>(1U << (kFraction - 1));
    return static_cast<uint16_t>(sign | kInfinity | (fraction != 0 ? payload | quiet : 0));
  }
  int to = exponent - kFromBias + kBias;  // the exponent there, if it is a normal number
  if (to >= kExponents) return static_cast<uint16_t>(sign | kInfinity);
  U significand = fraction;
  int drop = kFrom - kFraction;
  if (exponent == 0) ++to;  // F's own subnormals have the exponent of the least normal ones
  if (exponent != 0) significand |= U{1} << kFrom;
  if (to < 1) {  // subnormal there
    drop += 1 - to;
    to = 1;
  }
  if (drop > kFrom + 2) return sign;  // less than half of the least one
  const U kept = significand >> drop;
  const U rest = significand & ((U{1} << drop) - 1);
  const U half = U{1} << (drop - 1);
  const U rounded = kept + (rest > half || (rest == half && (kept & 1) != 0) ? 1 : 0);
  // The hidden bit adds one to the exponent field; a carry goes on into it, up to infinity.
  return static_cast<uint16_t>(sign | ((static_cast<U>(to - 1) << kFraction) + rounded));
}

// The same for the pair that matters for speed, without a branch that depends on the exponent.
uint16_t to_bfloat(float x) {
  const auto bits = std::bit_cast<uint32_t>(x);
  const uint32_t rounded = (bits + 0x7fffU + (bits >> 16 & 1U)) >> 16;
  const uint32_t quiet = bits >> 16 | 0x40U;
  return static_cast<uint16_t>((bits & 0x7fffffffU) > 0x7f800000U ? quiet : rounded);
}

template <class To, class From>
To convert_one(From x) {
  if constexpr (std::is_same_v<From, Half> || std::is_same_v<From, BFloat>) {
    return convert_one<To>(widen(x));
  } else if constexpr (std::is_same_v<To, Half>) {
    return {narrow_bits<10, 15>(x)};
  } else if constexpr (std::is_same_v<To, BFloat> && std::is_same_v<From, float>) {
    return {to_bfloat(x)};
  } else if constexpr (std::is_same_v<To, BFloat>) {
    return {narrow_bits<7, 127>(x)};
  } else {
    return static_cast<To>(x);
  }
}

template <class To, class From>
void convert_all(std::byte* to, const std::byte* from, size_t elements) {
  for (size_t i = 0; i < elements; ++i) {
    From x;
    std::memcpy(&x, from + i * sizeof(From), sizeof(From));
    const To y = convert_one<To>(x);
    std::memcpy(to + i * sizeof(To), &y, sizeof(To));
  }
}

template <class From>
Convert from_float(Dtype to) {
  switch (to) {
    case Dtype::kFloat32:
      return convert_all<float, From>;
    case Dtype::kFloat64:
      return convert_all<double, From>;
    case Dtype::kFloat16:
      return convert_all<Half, From>;
    case Dtype::kBFloat16:
      return convert_all<BFloat, From>;
    default:
      return nullptr;
  }
}

// Whether To holds every value of From.
template <class To, class From>
constexpr bool kWidens = std::is_signed_v<From> == std::is_signed_v<To>
                             ? (sizeof(To) > sizeof(From))
                             : (std::is_signed_v<To> && sizeof(To) > sizeof(From));

template <class To, class From>
Convert widening() {
  if constexpr (kWidens<To, From>) {
    return convert_all<To, From>;
  } else {
    return nullptr;
  }
}

template <class From>
Convert from_integer(Dtype to) {
  switch (to) {
    case Dtype::kInt16:
      return widening<int16_t, From>();
    case Dtype::kInt32:
      return widening<int32_t, From>();
    case Dtype::kInt64:
      return widening<int64_t, From>();
    case Dtype::kUInt16:
      return widening<uint16_t, From>();
    case Dtype::kUInt32:
      return widening<uint32_t, From>();
    case Dtype::kUInt64:
      return widening<uint64_t, From>();
    default:
      return nullptr;
  }
}

Convert find(Dtype from, Dtype to) {
  switch (from) {
    case Dtype::kFloat32:
      return from_float<float>(to);
    case Dtype::kFloat64:
      return from_float<double>(to);
    case Dtype::kFloat16:
      return from_float<Half>(to);
    case Dtype::kBFloat16:
      return from_float<BFloat>(to);
    case Dtype::kInt8:
      return from_integer<int8_t>(to);
    case Dtype::kInt16:
      return from_integer<int16_t>(to);
    case Dtype::kInt32:
      return from_integer<int32_t>(to);
    case Dtype::kUInt8:
      return from_integer<uint8_t>(to);
    case Dtype::kUInt16:
      return from_integer<uint16_t>(to);
    case Dtype::kUInt32:
      return from_integer<uint32_t>(to);
    default:
      return nullptr;
  }
}

}  // namespace

Result<Convert> converter(Dtype from, Dtype to) {
  if (from == to) return Convert{nullptr};
  const Convert convert = find(from, to);
  if (convert != nullptr) return convert;
  return Status(Code::kInvalidArgument,
                "it is saved as " + dtype_name(from) + " and wanted as " + dtype_name(to) +
                    ", which a load does not convert: only float32, float64, float16 and bfloat16 "
                    "among each other, and integers to wider ones. Ask for " +
                    dtype_name(from) + " and convert it yourself");
}

}  // namespace convoy::ckpt
