#pragma once

#include <convoy/base/clock.h>

#include <algorithm>
#include <cstdint>

namespace convoy::ckpt {

// Spreads bytes over time: a block may start when the ones before it have been paid for. A rate of
// 0 is no limit. Pure: time comes from the caller. One thread at a time.
class TokenBucket {
 public:
  // The time until the next block may start; zero: now.
  Nanos wait(uint64_t rate, TimePoint now) const {
    if (rate == 0 || now >= paid_) return Nanos::zero();
    // A changed rate applies at once.
    return rate == rate_ ? paid_ - now : Nanos::zero();
  }

  void take(uint64_t rate, uint64_t bytes, TimePoint now) {
    rate_ = rate;
    if (rate == 0) return;
    const auto cost =
        Nanos(static_cast<int64_t>(static_cast<double>(bytes) * 1e9 / static_cast<double>(rate)));
    // Of time in which nothing was sent only a moment is saved up: it makes good for late wake-ups.
    paid_ = std::max(paid_, now - kCredit) + cost;
    if (paid_ > now + cost) paid_ = now + cost;  // the rate was changed meanwhile
  }

 private:
  static constexpr Nanos kCredit = std::chrono::milliseconds(50);
  TimePoint paid_{};
  uint64_t rate_ = 0;
};

}  // namespace convoy::ckpt
