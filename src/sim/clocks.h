#pragma once

#include "src/sim/faults.h"

#include <vector>

// The hosts' clocks against the root's.
namespace convoy::sim {

inline constexpr int64_t kEpoch = 1'760'000'000'000'000'000;  // of the root's clock: Oct 2025

class HostClocks {
 public:
  HostClocks(const Cluster& cluster, const Layout& layout, const Faults& faults);
  static int64_t root(Time t) { return kEpoch + t; }
  int64_t host(uint32_t host, Time t) const;
  // A round trip that ends at `t`.
  trace::ClockSample sample(uint32_t host, Time t);

 private:
  struct HostClock {
    int64_t base = 0;
    double drift = 0;
    Random random;
  };
  const Cluster& cluster_;
  const Faults& faults_;
  std::vector<HostClock> clocks_;
};

}  // namespace convoy::sim
