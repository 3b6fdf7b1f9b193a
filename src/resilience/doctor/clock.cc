// Is the wall clock kept right? The kernel knows what its time daemon last said. Peers' clocks are
// compared in network.cc.
#include "src/resilience/doctor/checks.h"

#include <cerrno>
#include <cstring>
#include <sys/timex.h>

namespace convoy::resilience {

Results check_clock() {
  constexpr double kErrorMax = 1.0;  // seconds that the daemon itself thinks possible
  timex state{};                     // modes = 0: only reads
  const int synchronised = ::adjtimex(&state);
  if (synchronised < 0) return {skipped("clock.synchronised", std::strerror(errno))};
  const bool unknown = synchronised == TIME_ERROR || (state.status & STA_UNSYNC) != 0;
  const double error = static_cast<double>(state.maxerror) * 1e-6;
  CheckResult result = found("clock.synchronised",
                             unknown ? "no" : "yes, error at most " + format_value(error, "s"));
  return {judged(std::move(result), !unknown && error <= kErrorMax, Verdict::kWarn,
                 "a time daemon keeps it within " + format_value(kErrorMax, "s"),
                 "Start chronyd or systemd-timesyncd (in a container: on its host), and check that "
                 "it reaches a server (`chronyc tracking`).")};
}

}  // namespace convoy::resilience
