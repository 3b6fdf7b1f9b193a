// Memory: how much of it a job may take, and how fast it is copied by one core and by all. A copy
// rather than a read or a write, because that is what gradients and checkpoints do to it; the best
// pass counts, as with STREAM: what else runs here only makes a pass slower.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/kernel_files.h"

#include <algorithm>
#include <atomic>
#include <barrier>
#include <cstring>
#include <memory>
#include <sched.h>
#include <sys/mman.h>
#include <thread>

namespace convoy::resilience {
namespace {

// Source and destination together must not fit into caches. One core may use the whole last-level
// cache, all cores share it.
constexpr size_t kBytesOneCore = 128UL << 20;
constexpr size_t kBytesPerCore = 32UL << 20;
constexpr double kBandwidthMin = 1UL << 30;  // below, something is broken, whatever the machine
constexpr int kPassesMax = 1000;

class Mapping {
 public:
  explicit Mapping(size_t bytes)
      : at_(::mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)),
        bytes_(bytes) {
    if (!ok()) return;
    ::madvise(at_, bytes, MADV_HUGEPAGE);  // else a pass is mostly page faults and TLB misses
    std::memset(at_, 1, bytes);            // by the core that copies, so on its NUMA node
  }
  Mapping(const Mapping&) = delete;
  Mapping& operator=(const Mapping&) = delete;
  ~Mapping() {
    if (ok()) ::munmap(at_, bytes_);
  }
  bool ok() const { return at_ != MAP_FAILED; }
  void* at() const { return at_; }

 private:
  void* at_;
  size_t bytes_;
};

std::vector<int> allowed_cores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cores;
  if (::sched_getaffinity(0, sizeof set, &set) != 0) return {0};
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cores.push_back(cpu);
  }
  return cores;
}

void stay_on(int core) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(core, &set);
  ::sched_setaffinity(0, sizeof set, &set);
}

// Bytes a second that all `cores` together copied in their best common pass; 0 without memory.
double copy_bandwidth(const std::vector<int>& cores, size_t bytes, Nanos time) {
  double best = 0;
  bool goes_on = true;
  std::atomic<bool> has_memory{true};
  TimePoint begin = Clock::system().now();
  const Deadline deadline = Deadline::after(time);
  int passes = 0;
  const auto between = [&]() noexcept {  // one thread, while the others wait
    const TimePoint now = Clock::system().now();
    const double seconds = std::chrono::duration<double>(now - begin).count();
    // The first "pass" is the time until all had their memory.
    if (passes > 0) {
      best = std::max(best, static_cast<double>(bytes * cores.size()) / std::max(seconds, 1e-9));
    }
    goes_on = ++passes <= 2 || (!deadline.passed() && passes < kPassesMax);
    begin = Clock::system().now();
  };
  std::barrier barrier(static_cast<std::ptrdiff_t>(cores.size()), between);
  std::vector<std::thread> threads;
  for (const int core : cores) {
    threads.emplace_back([&barrier, &goes_on, &has_memory, core, bytes] {
      stay_on(core);
      const Mapping from(bytes), to(bytes);
      const bool ok = from.ok() && to.ok();
      if (!ok) has_memory = false;
      barrier.arrive_and_wait();
      while (goes_on) {
        if (ok) std::memcpy(to.at(), from.at(), bytes);
        barrier.arrive_and_wait();
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  return has_memory ? best : 0;
}

uint64_t available_memory(const DoctorOptions& options) {
  const std::string text = read_small_file(options.proc + "/meminfo").value_or("");
  uint64_t available = number_behind(text, "MemAvailable:").value_or(0) << 10;  // stands in KiB
  const GroupLimits limits = read_group_limits(options.proc, options.sys);
  if (limits.memory_left) available = std::min(available, *limits.memory_left);
  return available;
}

CheckResult bandwidth(const char* name, double value) {
  return judged(measured(name, value, "B/s", Better::kHigher), value >= kBandwidthMin,
                Verdict::kWarn, "at least " + format_value(kBandwidthMin, "B/s"),
                "Look for throttling, a failed memory channel and other jobs of this machine, and "
                "compare it with other nodes (--compare).");
}

}  // namespace

Results check_available_memory(const DoctorOptions& options) {
  const uint64_t available = available_memory(options);
  const bool in_group = read_group_limits(options.proc, options.sys).memory_left.has_value();
  // Not compared with other nodes: it differs by what runs there.
  return {
      judged(measured("memory.available", static_cast<double>(available), "B", Better::kNeither),
             available >= options.memory_min, Verdict::kFail,
             "at least " + format_bytes(options.memory_min),
             in_group ? "Raise the memory limit of the control group, or end what uses it up."
                      : "End what uses it up: `ps aux --sort=-rss` lists the largest first.")};
}

Results check_memory_bandwidth(const DoctorOptions& options, Nanos time) {
  const std::vector<int> cores = allowed_cores();
  // Never more than a quarter of what is left: nobody must be killed for a measurement.
  const size_t most = available_memory(options) / 8;  // source and destination
  const size_t one = std::min(kBytesOneCore, most);
  const size_t each = std::min(kBytesPerCore, most / cores.size());
  if (each < (1UL << 20)) {
    return {skipped("memory.copy_all_cores", "too little memory is left to measure it")};
  }
  return {bandwidth("memory.copy_one_core", copy_bandwidth({cores.front()}, one, time / 2)),
          bandwidth("memory.copy_all_cores", copy_bandwidth(cores, each, time / 2))};
}

}  // namespace convoy::resilience
