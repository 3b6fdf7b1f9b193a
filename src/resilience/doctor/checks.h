#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/units.h>
#include <convoy/resilience/doctor.h>

#include <functional>
#include <string>
#include <utility>
#include <vector>

// The checks. Each runs in a process of its own and may take until its deadline, block or crash.
namespace convoy::resilience {

using Results = std::vector<CheckResult>;

// When a check runs: those that read run beside each other, as do round trips to all peers; what
// takes much of the machine runs alone. A background check begins first and is awaited last.
enum class Phase : uint8_t { kBackground, kRead, kProbe, kMeasure };

struct Check {
  std::string name{};
  std::string subject{};
  Phase phase = Phase::kRead;
  Nanos deadline{};
  std::string advice{};  // when it does not end in time
  std::function<Results()> run{};
};

Results check_available_memory(const DoctorOptions& options);
Results check_memory_bandwidth(const DoctorOptions& options, Nanos time);
Results check_disk(const DoctorOptions& options, const std::string& folder, Nanos time);
Results check_shared_memory(const DoctorOptions& options);
Results check_limits(const DoctorOptions& options);
Results check_kernel(const DoctorOptions& options);
Results check_cores(const DoctorOptions& options);
// Watches for `time`.
Results check_steal_and_throttling(const DoctorOptions& options, Nanos time);
Results check_processes(const DoctorOptions& options);
Results check_clock();
Results check_gpu();
Results probe_peer(const Peer& peer, Nanos time);
Results measure_peer(const DoctorOptions& options, const Peer& peer, Nanos time);

// Short forms of results, so that checks read as a list of what they find.
inline CheckResult found(std::string name, std::string text) {
  return {.name = std::move(name), .found = std::move(text)};
}
inline CheckResult measured(std::string name, double value, std::string unit, Better better) {
  CheckResult result{.name = std::move(name), .value = value, .unit = std::move(unit)};
  result.found = format_value(value, result.unit);
  result.better = better;
  return result;
}
// `result`, judged: as long as `is_good` it stays as it is.
inline CheckResult judged(CheckResult result, bool is_good, Verdict otherwise, std::string expected,
                          std::string advice) {
  result.expected = std::move(expected);
  if (is_good) return result;
  result.verdict = otherwise;
  result.advice = std::move(advice);
  return result;
}
inline CheckResult skipped(std::string name, std::string why) {
  return {.name = std::move(name), .verdict = Verdict::kSkipped, .found = std::move(why)};
}

}  // namespace convoy::resilience
