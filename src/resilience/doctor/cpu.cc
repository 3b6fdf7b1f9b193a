// The processor: which cores there are and which we may use, what the hypervisor takes away, and
// whether heat or a setting slows it down.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/kernel_files.h"
#include <convoy/base/config.h>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <filesystem>
#include <thread>

namespace convoy::resilience {
namespace {

constexpr double kStealMax = 0.05;  // of the time
constexpr double kStealBroken = 0.3;
constexpr double kCapMin = 0.95;  // of the highest frequency

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f %%", 100 * share);
  return text;
}

uint64_t list_length(const std::string& path) {
  return count_of_list(read_small_file(path).value_or("")).value_or(0);
}

uint64_t allowed_cores(const std::string& proc) {
  const std::string status = read_small_file(proc + "/self/status").value_or("");
  constexpr std::string_view kKey = "Cpus_allowed_list:";
  for (const std::string& line : split(status, '\n')) {
    if (!line.starts_with(kKey)) continue;
    const size_t begin = line.find_first_not_of(" \t", kKey.size());
    if (begin != std::string::npos) return count_of_list(line.substr(begin)).value_or(0);
  }
  return 0;
}

CheckResult check_quota(const DoctorOptions& options, uint64_t allowed) {
  const auto quota = read_group_limits(options.proc, options.sys).cores;
  if (!quota) return found("cpu.quota", "none");
  char text[64];
  std::snprintf(text, sizeof text, "%.1f of %llu cores", *quota,
                static_cast<unsigned long long>(allowed));
  return judged(found("cpu.quota", text), *quota >= static_cast<double>(allowed), Verdict::kWarn,
                "no quota below the cores that may be used",
                "Lift the control group's quota, or confine the job to as many cores: ranks on "
                "more are stopped for parts of every 100 ms.");
}

struct CpuTime {
  uint64_t steal = 0;
  uint64_t total = 0;
};

// "cpu  user nice system idle iowait irq softirq steal guest guest_nice"; guests' time is in user.
CpuTime read_cpu_time(const std::string& proc) {
  constexpr size_t kColumns = 8;
  const std::string text = read_small_file(proc + "/stat").value_or("");
  CpuTime time;
  size_t column = 0;
  for (const std::string& word : split(text.substr(0, text.find('\n')), ' ')) {
    uint64_t ticks = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), ticks);
    if (error != std::errc() || column >= kColumns) continue;  // "cpu", blanks
    ++column;
    time.total += ticks;
    if (column == kColumns) time.steal = ticks;
  }
  return time;
}

CheckResult check_steal(const CpuTime& before, const CpuTime& after) {
  if (after.total <= before.total) return skipped("cpu.steal", "/proc/stat does not tell");
  const double share = static_cast<double>(after.steal - std::min(after.steal, before.steal)) /
                       static_cast<double>(after.total - before.total);
  CheckResult result{.name = "cpu.steal", .value = share, .unit = "share", .found = percent(share)};
  return judged(std::move(result), share <= kStealMax,
                share > kStealBroken ? Verdict::kFail : Verdict::kWarn,
                "at most " + percent(kStealMax),
                "The hypervisor gives this machine's cores to others: move it to another host.");
}

// Adds up a counter of all cores; nothing where no core has it.
std::optional<uint64_t> sum_over_cores(const std::string& sys, const char* file) {
  std::optional<uint64_t> sum;
  std::error_code error;
  for (const auto& entry :
       std::filesystem::directory_iterator(sys + "/devices/system/cpu", error)) {
    const auto value = read_number(entry.path().string() + "/" + file);
    if (value) sum = sum.value_or(0) + *value;
  }
  return sum;
}

constexpr const char* kThrottleCount = "thermal_throttle/core_throttle_count";

CheckResult check_heat(const std::string& sys, std::optional<uint64_t> before) {
  const auto after = sum_over_cores(sys, kThrottleCount);
  if (!before || !after) return skipped("cpu.throttling", "sysfs does not tell");
  const uint64_t times = *after - std::min(*after, *before);
  return judged(found("cpu.throttling", std::to_string(times) + " times while the checks ran"),
                times == 0, Verdict::kWarn, "no throttling",
                "The processor is too hot: look at the node's fans, and at the inlet temperature "
                "(`ipmitool sdr type temperature`).");
}

CheckResult check_frequency_cap(const std::string& sys) {
  const auto allowed = sum_over_cores(sys, "cpufreq/scaling_max_freq");
  const auto possible = sum_over_cores(sys, "cpufreq/cpuinfo_max_freq");
  if (!allowed || !possible || *possible == 0) {
    return skipped("cpu.frequency", "sysfs does not tell");
  }
  const double share = static_cast<double>(*allowed) / static_cast<double>(*possible);
  return judged(found("cpu.frequency", percent(share) + " of the highest are allowed"),
                share >= kCapMin, Verdict::kWarn, "at least " + percent(kCapMin),
                "Lift the cap: `cpupower frequency-set --max`, or the power limit in the BIOS.");
}

}  // namespace

Results check_cores(const DoctorOptions& options) {
  const std::string folder = options.sys + "/devices/system/cpu";
  const uint64_t present = list_length(folder + "/present");
  const uint64_t online = list_length(folder + "/online");
  const uint64_t allowed = allowed_cores(options.proc);
  if (online == 0 || allowed == 0) return {skipped("cpu.cores", "the kernel does not tell")};
  CheckResult cores = judged(
      found("cpu.cores", std::to_string(allowed) + " may be used, " + std::to_string(online) +
                             " are online, " + std::to_string(present) + " present"),
      online >= present, Verdict::kWarn, "all present cores online",
      "Bring them online (/sys/devices/system/cpu/cpuN/online), unless someone took them off.");
  return {std::move(cores), check_quota(options, allowed)};
}

Results check_steal_and_throttling(const DoctorOptions& options, Nanos time) {
  const CpuTime time_before = read_cpu_time(options.proc);
  const auto throttled_before = sum_over_cores(options.sys, kThrottleCount);
  std::this_thread::sleep_for(time);
  return {check_steal(time_before, read_cpu_time(options.proc)),
          check_heat(options.sys, throttled_before), check_frequency_cap(options.sys)};
}

}  // namespace convoy::resilience
