#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <optional>

namespace convoy::trace::nccl {

// Where a GPU's own clock stands against the host's, from the times at which the proxy's thread
// comes to know of GPU times: it knows late, never early, so the least delay of a short while is
// taken for none. Both clocks drift by up to kDrift; a new while begins each kWindow. So a time
// that is told is late by the least delay within 2 × kWindow (the thread polls: microseconds) and
// wrong by drift over as long (30 µs at the limit).
//
// One thread; others make it no worse than inexact.
class GpuClock {
 public:
  static constexpr int64_t kWindow = 100'000'000;  // ns
  // ns: a time that is so much later than can be is no time. (Less: what came before was told late,
  // as the first ones are.)
  static constexpr int64_t kJump = 1'000'000'000;
  static constexpr uint32_t kJumpsMax = 16;  // in a row: then the clock was set
  static constexpr double kDrift = 150e-6;

  // How many ns ago (host_ns: now) the GPU's clock showed `gpu_ns`. Nothing: it can't have been.
  std::optional<int64_t> age(uint64_t gpu_ns, int64_t host_ns) {
    const auto offset = static_cast<int64_t>(static_cast<uint64_t>(host_ns) - gpu_ns);
    if (offset > kFarthest || offset < -kFarthest) return std::nullopt;
    turn_window(host_ns);
    int64_t best = std::min(previous_.load(kRelaxed), current_.load(kRelaxed));
    if (best != kNone && offset < best - kJump - slack_.load(kRelaxed)) {
      if (jumps_.fetch_add(1, kRelaxed) + 1 < kJumpsMax) return std::nullopt;
      previous_.store(kNone, kRelaxed);
      current_.store(kNone, kRelaxed);
      best = kNone;
    }
    jumps_.store(0, kRelaxed);
    if (offset < current_.load(kRelaxed)) current_.store(offset, kRelaxed);
    best = std::min(best, offset);
    return static_cast<int64_t>(static_cast<uint64_t>(offset) - static_cast<uint64_t>(best));
  }

  void reset() {
    previous_.store(kNone, kRelaxed);
    current_.store(kNone, kRelaxed);
    window_.store(0, kRelaxed);
    slack_.store(0, kRelaxed);
    jumps_.store(0, kRelaxed);
  }

 private:
  static constexpr auto kRelaxed = std::memory_order_relaxed;
  static constexpr int64_t kNone = INT64_MAX;
  static constexpr int64_t kFarthest = INT64_MAX / 4;

  // What was found before still bounds the offset, by the drift since.
  void turn_window(int64_t host_ns) {
    const int64_t since = host_ns - window_.load(kRelaxed);
    if (since < kWindow) return;
    int64_t last = current_.load(kRelaxed);
    if (last == kNone) last = previous_.load(kRelaxed);
    int64_t drift = 0;
    if (last != kNone && since > 2 * kWindow) {
      drift = static_cast<int64_t>(static_cast<double>(since) * kDrift);
      last += drift;
    }
    slack_.store(2 * drift, kRelaxed);
    previous_.store(last, kRelaxed);
    current_.store(kNone, kRelaxed);
    window_.store(host_ns, kRelaxed);
  }

  std::atomic<int64_t> previous_{kNone}, current_{kNone}, window_{0}, slack_{0};
  std::atomic<uint32_t> jumps_{0};
};

}  // namespace convoy::trace::nccl
