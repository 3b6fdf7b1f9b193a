#pragma once

#include <convoy/ckpt/records.h>

#include <cstddef>
#include <span>

// Float types as numbers. Pure.
namespace convoy::ckpt {

// float16, bfloat16, float8…, float32, float64.
bool is_float(Dtype dtype);

// The element at `data` of a float type; exact.
double load_float(Dtype dtype, const std::byte* data);

// Types that convert() can make.
bool can_convert_to(Dtype dtype);

// Elements of float type `from` as float type `to`, rounded to the nearest, ties to even; too large
// ones become infinite, NaN stays NaN. `out` has room for as many elements as `in` holds.
void convert(Dtype from, std::span<const std::byte> in, Dtype to, std::span<std::byte> out);

}  // namespace convoy::ckpt
