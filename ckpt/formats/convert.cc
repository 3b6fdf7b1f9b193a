// Float types by their exponent and mantissa bits. Every one of them is exact in double, so each
// conversion rounds once: what is narrower than float32 is rounded straight from double.
#include "ckpt/formats/convert.h"

#include <convoy/base/check.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>

namespace convoy::ckpt {
namespace {

// A float type of at most 16 bits.
struct Small {
  int exponent_bits;
  int mantissa_bits;
  bool has_infinity;  // else the highest exponent is a number, but for all ones, which is NaN
};
constexpr Small kHalf{5, 10, true};
constexpr Small kBrain{8, 7, true};
constexpr Small kE4M3{4, 3, false};
constexpr Small kE5M2{5, 2, true};

double load_small(uint32_t bits, const Small& type) {
  const int bias = (1 << (type.exponent_bits - 1)) - 1;
  const uint32_t mantissa = bits & ((1U << type.mantissa_bits) - 1);
  const uint32_t top = (1U << type.exponent_bits) - 1;
  const uint32_t exponent = (bits >> type.mantissa_bits) & top;
  const double sign = (bits >> (type.mantissa_bits + type.exponent_bits)) != 0 ? -1 : 1;
  const bool all_ones = mantissa == (1U << type.mantissa_bits) - 1;
  if (exponent == top && (type.has_infinity ? mantissa != 0 : all_ones)) {
    return std::numeric_limits<double>::quiet_NaN();
  }
  if (exponent == top && type.has_infinity) return sign * std::numeric_limits<double>::infinity();
  if (exponent == 0) return sign * std::ldexp(mantissa, 1 - bias - type.mantissa_bits);
  return sign * std::ldexp(mantissa + (1U << type.mantissa_bits),
                           static_cast<int>(exponent) - bias - type.mantissa_bits);
}

// For types with an infinity.
uint16_t store_small(double value, const Small& type) {
  const int bias = (1 << (type.exponent_bits - 1)) - 1;
  const uint32_t top = (1U << type.exponent_bits) - 1;
  const uint32_t sign = std::signbit(value) ? 1U << (type.exponent_bits + type.mantissa_bits) : 0;
  const uint32_t infinity = top << type.mantissa_bits;
  if (std::isnan(value))
    return static_cast<uint16_t>(sign | infinity | 1U << (type.mantissa_bits - 1));
  if (std::isinf(value)) return static_cast<uint16_t>(sign | infinity);
  if (value == 0) return static_cast<uint16_t>(sign);
  // In units of the last place: nearbyint() rounds ties to even; a carry into the next exponent,
  // or into infinity, comes out right because the fields are adjacent.
  const int exponent = std::max(std::ilogb(value), 1 - bias);
  const double units = std::nearbyint(std::ldexp(std::fabs(value), type.mantissa_bits - exponent));
  const auto whole = static_cast<uint64_t>(units);
  if (exponent + bias >= static_cast<int>(top)) return static_cast<uint16_t>(sign | infinity);
  const uint64_t bits = (static_cast<uint64_t>(exponent + bias - 1) << type.mantissa_bits) + whole;
  return static_cast<uint16_t>(sign | std::min<uint64_t>(bits, infinity));
}

// The most frequent conversion.
uint16_t brain_of(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40);
  return static_cast<uint16_t>((bits + 0x7fff + ((bits >> 16) & 1)) >> 16);
}

template <class T>
T load(const std::byte* data) {
  T value;
  std::memcpy(&value, data, sizeof(value));
  return value;
}

void store_float(double value, Dtype dtype, std::byte* out) {
  if (dtype == Dtype::kFloat64) {
    std::memcpy(out, &value, sizeof(value));
  } else if (dtype == Dtype::kFloat32) {
    const auto narrow = static_cast<float>(value);
    std::memcpy(out, &narrow, sizeof(narrow));
  } else {
    const uint16_t bits = store_small(value, dtype == Dtype::kFloat16 ? kHalf : kBrain);
    std::memcpy(out, &bits, sizeof(bits));
  }
}

}  // namespace

bool is_float(Dtype dtype) {
  switch (dtype) {
    case Dtype::kFloat32:
    case Dtype::kFloat64:
    case Dtype::kFloat16:
    case Dtype::kBFloat16:
    case Dtype::kFloat8E4M3:
    case Dtype::kFloat8E5M2:
      return true;
    default:
      return false;
  }
}

bool can_convert_to(Dtype dtype) {
  return is_float(dtype) && dtype_bytes(dtype) > 1;
}

double load_float(Dtype dtype, const std::byte* data) {
  switch (dtype) {
    case Dtype::kFloat64:
      return load<double>(data);
    case Dtype::kFloat32:
      return static_cast<double>(load<float>(data));
    case Dtype::kFloat16:
      return load_small(load<uint16_t>(data), kHalf);
    case Dtype::kBFloat16:
      return static_cast<double>(std::bit_cast<float>(uint32_t{load<uint16_t>(data)} << 16));
    case Dtype::kFloat8E4M3:
      return load_small(load<uint8_t>(data), kE4M3);
    case Dtype::kFloat8E5M2:
      return load_small(load<uint8_t>(data), kE5M2);
    default:
      CONVOY_CHECK(false, "no float type");
      return 0;
  }
}

void convert(Dtype from, std::span<const std::byte> in, Dtype to, std::span<std::byte> out) {
  CONVOY_CHECK(is_float(from) && can_convert_to(to), "no conversion between these types");
  const size_t wide = dtype_bytes(from);
  const size_t narrow = dtype_bytes(to);
  const size_t count = in.size() / wide;
  CONVOY_CHECK(out.size() >= count * narrow, "no room for the result");
  const bool is_usual = from == Dtype::kFloat32 && to == Dtype::kBFloat16;
  for (size_t i = 0; i < count; ++i) {
    if (is_usual) {
      const uint16_t bits = brain_of(load<float>(in.data() + i * wide));
      std::memcpy(out.data() + i * narrow, &bits, sizeof(bits));
    } else {
      store_float(load_float(from, in.data() + i * wide), to, out.data() + i * narrow);
    }
  }
}

}  // namespace convoy::ckpt
