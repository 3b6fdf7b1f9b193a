// Offset, drift and steps of clocks, and what a round trip tells about them.
#include "src/sim/clocks.h"

#include <algorithm>

namespace convoy::sim {

HostClocks::HostClocks(const Cluster& cluster, const Layout& layout, const Faults& faults)
    : cluster_(cluster), faults_(faults), clocks_(layout.hosts) {
  for (uint32_t h = 0; h < layout.hosts; ++h) {
    HostClock& clock = clocks_[h];
    clock.random = Random(mix(cluster.seed, 3'000'000'019ULL + h));
    const double offset = clock.random.uniform(-1, 1) * cluster.clocks.offset_ms * 1e6;
    const double uptime = clock.random.uniform(3600, 60 * 86400) * 1e9;
    clock.base = (cluster.clocks.uptimes ? static_cast<int64_t>(uptime) : kEpoch) +
                 static_cast<int64_t>(offset);
    clock.drift = clock.random.uniform(-1, 1) * cluster.clocks.drift_us_per_s * 1e-6;
  }
}

int64_t HostClocks::host(uint32_t host, Time t) const {
  const HostClock& clock = clocks_[host];
  int64_t time = clock.base + t + static_cast<int64_t>(static_cast<double>(t) * clock.drift);
  for (const ActiveFault& f : faults_.all()) {
    if (f.fault.cls == trace::Class::kClockStep && t >= f.onset &&
        host == static_cast<uint32_t>(f.fault.host)) {
      time += nanoseconds(f.fault.seconds);
    }
  }
  return time;
}

trace::ClockSample HostClocks::sample(uint32_t host, Time t) {
  Random& random = clocks_[host].random;
  const double trip = cluster_.clocks.round_trip_us * 1e3 * (1 + random.exponential(0.3));
  // The answer's way took any share of the trip; the middle is told.
  const double asymmetry = (random.uniform(0.2, 0.8) - 0.5) * trip;
  return {.host = host_name(host),
          .host_time = this->host(host, t),
          .root_time = root(t) + static_cast<int64_t>(asymmetry),
          .error = static_cast<int64_t>(trip / 2) + 1000};
}

}  // namespace convoy::sim
