#pragma once

#include <convoy/base/clock.h>

#include <algorithm>
#include <cstdint>

namespace convoy::ckpt {

// How long to wait before try number `failed` + 1: twice as long each time, up to `most`, and
// between half of that and all of it, so that many that failed together don't come back together.
// `random`: any number. Pure.
inline Nanos backoff(int failed, Nanos first, Nanos most, uint64_t random) {
  Nanos whole = first;
  for (int i = 1; i < failed && whole < most; ++i) whole *= 2;
  whole = std::min(whole, most);
  const int64_t half = whole.count() / 2;
  return Nanos(half + static_cast<int64_t>(random % static_cast<uint64_t>(half + 1)));
}

}  // namespace convoy::ckpt
