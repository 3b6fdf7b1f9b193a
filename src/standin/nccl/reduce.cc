// Tiles: a tile of the result is complete before any of it is written, since targets may be
// sources.
#include "src/standin/nccl/reduce.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <nccl.h>
#include <type_traits>

namespace convoy::standin::nccl {
namespace {

constexpr size_t kTile = 2048;  // elements

// What a type is added up in.
template <typename T>
using Sum = std::conditional_t<std::is_arithmetic_v<T>, T, float>;

template <typename T>
Sum<T> value_of(T element) {
  return static_cast<Sum<T>>(element);
}

// Signed overflow has no meaning in C++, but has on a GPU.
template <typename T, typename Op>
T wrapped(T a, T b, Op op) {
  if constexpr (std::is_integral_v<T>) {
    using U = std::make_unsigned_t<T>;
    return static_cast<T>(
        op(static_cast<uint64_t>(static_cast<U>(a)), static_cast<uint64_t>(static_cast<U>(b))));
  } else {
    return op(a, b);
  }
}

template <typename S>
S add(S a, S b) {
  return wrapped(a, b, [](auto x, auto y) { return x + y; });
}
template <typename S>
S multiply(S a, S b) {
  return wrapped(a, b, [](auto x, auto y) { return x * y; });
}

template <typename T, typename Op>
void fold(std::array<Sum<T>, kTile>& tile, const Reduction& r, size_t at, size_t n, Op op) {
  const T* first = static_cast<const T*>(r.sources[0]) + at;
  for (size_t i = 0; i < n; ++i) tile[i] = value_of(first[i]);
  for (int rank = 1; rank < r.ranks; ++rank) {
    const T* source = static_cast<const T*>(r.sources[rank]) + at;
    for (size_t i = 0; i < n; ++i) tile[i] = op(tile[i], value_of(source[i]));
  }
}

template <typename T>
void fold_premultiplied(std::array<Sum<T>, kTile>& tile, const Reduction& r, size_t at, size_t n) {
  for (int rank = 0; rank < r.ranks; ++rank) {
    const T* source = static_cast<const T*>(r.sources[rank]) + at;
    T factor;
    std::memcpy(static_cast<void*>(&factor), &r.scalars[rank], sizeof factor);
    const Sum<T> scale = value_of(factor);
    for (size_t i = 0; i < n; ++i) {
      const Sum<T> part = multiply(scale, value_of(source[i]));
      tile[i] = rank == 0 ? part : add(tile[i], part);
    }
  }
}

template <typename T>
void reduce_tile(std::array<Sum<T>, kTile>& tile, const Reduction& r, size_t at, size_t n) {
  using S = Sum<T>;
  switch (r.redop) {
    case ncclProd:
      return fold<T>(tile, r, at, n, [](S a, S b) { return multiply(a, b); });
    case ncclMax:
      return fold<T>(tile, r, at, n, [](S a, S b) { return b > a ? b : a; });
    case ncclMin:
      return fold<T>(tile, r, at, n, [](S a, S b) { return b < a ? b : a; });
    case ncclNumOps:
      return fold_premultiplied<T>(tile, r, at, n);
    default:
      fold<T>(tile, r, at, n, [](S a, S b) { return add(a, b); });
  }
  if (r.redop != ncclAvg) return;
  for (size_t i = 0; i < n; ++i) tile[i] = static_cast<S>(tile[i] / static_cast<S>(r.ranks));
}

template <typename T>
void reduce_as(const Reduction& r, size_t begin, size_t end, size_t target_begin) {
  std::array<Sum<T>, kTile> tile;
  std::array<T, kTile> rounded;
  for (size_t at = begin; at < end; at += kTile) {
    const size_t n = std::min(kTile, end - at);
    reduce_tile<T>(tile, r, at, n);
    const void* result = tile.data();
    if constexpr (!std::is_same_v<T, Sum<T>>) {
      for (size_t i = 0; i < n; ++i) rounded[i] = static_cast<T>(tile[i]);
      result = rounded.data();
    }
    for (int t = 0; t < r.n_targets; ++t) {
      std::memcpy(static_cast<T*>(r.targets[t]) + target_begin + (at - begin), result,
                  n * sizeof(T));
    }
  }
}

}  // namespace

size_t bytes_of_type(uint32_t dtype) {
  constexpr std::array<size_t, ncclNumTypes> kBytes = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
  return kBytes[dtype];
}

void reduce(const Reduction& r, size_t begin, size_t end, size_t target_begin) {
  switch (r.dtype) {
    case ncclInt8:
      return reduce_as<int8_t>(r, begin, end, target_begin);
    case ncclUint8:
      return reduce_as<uint8_t>(r, begin, end, target_begin);
    case ncclInt32:
      return reduce_as<int32_t>(r, begin, end, target_begin);
    case ncclUint32:
      return reduce_as<uint32_t>(r, begin, end, target_begin);
    case ncclInt64:
      return reduce_as<int64_t>(r, begin, end, target_begin);
    case ncclUint64:
      return reduce_as<uint64_t>(r, begin, end, target_begin);
    case ncclFloat16:
      return reduce_as<__half>(r, begin, end, target_begin);
    case ncclFloat32:
      return reduce_as<float>(r, begin, end, target_begin);
    case ncclFloat64:
      return reduce_as<double>(r, begin, end, target_begin);
    case ncclBfloat16:
      return reduce_as<__nv_bfloat16>(r, begin, end, target_begin);
    case ncclFloat8e4m3:
      return reduce_as<__nv_fp8_e4m3>(r, begin, end, target_begin);
    case ncclFloat8e5m2:
      return reduce_as<__nv_fp8_e5m2>(r, begin, end, target_begin);
    default:
      return;
  }
}

}  // namespace convoy::standin::nccl
