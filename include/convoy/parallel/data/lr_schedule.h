#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <numbers>

namespace convoy::data {

// Learning rate over a run: linear warm-up from 0 to `peak`, then half a cosine down to `floor`,
// then `floor`. A pure function of the step, so a restarted run needs no state.
struct LrSchedule {
  double peak = 3e-4;
  double floor = 3e-5;
  int64_t warmup_steps = 0;
  int64_t total_steps = 0;  // 0: stays at `peak` after the warm-up

  // The rate of step 0, 1, …
  double at(int64_t step) const {
    if (step < warmup_steps) {
      return peak * static_cast<double>(step + 1) / static_cast<double>(warmup_steps);
    }
    if (total_steps <= 0) return peak;
    const double span = static_cast<double>(std::max<int64_t>(1, total_steps - warmup_steps));
    const double done = std::min(1.0, static_cast<double>(step - warmup_steps) / span);
    return floor + (peak - floor) * 0.5 * (1 + std::cos(std::numbers::pi * done));
  }
};

}  // namespace convoy::data
