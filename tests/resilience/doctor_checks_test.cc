// What checks conclude from the kernel's files, on made-up /proc and /sys, and from limits that are
// really lowered. That a real kernel's files look so is checked by the doctor itself on this
// machine: it must find cores and memory.
#include "src/resilience/doctor/kernel_files.h"
#include "tests/resilience/doctor_run.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <filesystem>
#include <fstream>
#include <sys/resource.h>
#include <thread>
#include <unistd.h>

using namespace convoy;
using namespace convoy::resilience;

namespace {

// Kernel files on paper.
class Machine {
 public:
  Machine() {
    options_.proc = folder_ / "proc";
    options_.sys = folder_ / "sys";
  }
  void write(const std::string& file, const std::string& text) {
    const std::filesystem::path path(folder_ / file);
    std::filesystem::create_directories(path.parent_path());
    // In one piece, as a reader may look at any time.
    std::ofstream(path.string() + "~", std::ios::binary) << text;
    std::filesystem::rename(path.string() + "~", path);
  }
  DoctorOptions& options() { return options_; }

 private:
  TempFolder folder_;
  DoctorOptions options_;
};

constexpr uint64_t kGiB = 1ULL << 30;
constexpr uint64_t kHalf = kGiB / 2;

}  // namespace

TEST_CASE("free memory is what the narrowest control group leaves") {
  Machine machine;
  machine.write("proc/meminfo", "MemTotal: 99999999 kB\nMemAvailable:   67108864 kB\n");
  CHECK(check_available_memory(machine.options())[0].value == 64 * kGiB);

  SECTION("version 2, a limit of an ancestor; cache gives way") {
    machine.write("proc/self/cgroup", "0::/job/rank\n");
    machine.write("sys/fs/cgroup/job/rank/memory.max", "max\n");
    machine.write("sys/fs/cgroup/job/rank/memory.current", "4096\n");
    machine.write("sys/fs/cgroup/job/memory.max", std::to_string(4 * kGiB) + "\n");
    machine.write("sys/fs/cgroup/job/memory.current", std::to_string(4 * kGiB) + "\n");
    machine.write("sys/fs/cgroup/job/memory.stat",
                  "anon 5\ninactive_file " + std::to_string(kHalf) + "\n");
    const CheckResult result = check_available_memory(machine.options())[0];
    CHECK(result.value == kHalf);
    CHECK(result.verdict == Verdict::kFail);  // of the 1 GiB that is needed
    CHECK(result.advice.find("control group") != std::string::npos);
  }
  SECTION("version 1 in a container, where the host's path is not there") {
    machine.write("proc/self/cgroup", "4:memory:/docker/abc\n1:cpu,cpuacct:/docker/abc\n");
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", std::to_string(8 * kGiB));
    machine.write("sys/fs/cgroup/memory/memory.usage_in_bytes", std::to_string(2 * kGiB));
    CHECK(check_available_memory(machine.options())[0].value == 6 * kGiB);
    machine.write("sys/fs/cgroup/memory/memory.limit_in_bytes", "9223372036854771712");
    CHECK(check_available_memory(machine.options())[0].value == 64 * kGiB);
  }
}

TEST_CASE("cores: offline ones and a quota are warnings") {
  Machine machine;
  machine.write("proc/self/status", "Name:\tx\nCpus_allowed:\tff\nCpus_allowed_list:\t0-3,8-11\n");
  machine.write("sys/devices/system/cpu/present", "0-15\n");
  machine.write("sys/devices/system/cpu/online", "0-15\n");
  Results results = check_cores(machine.options());
  CHECK(result_of(results, "cpu.cores").found == "8 may be used, 16 are online, 16 present");
  CHECK(result_of(results, "cpu.cores").verdict == Verdict::kOk);
  CHECK(result_of(results, "cpu.quota").verdict == Verdict::kOk);

  machine.write("sys/devices/system/cpu/online", "0-13\n");
  machine.write("proc/self/cgroup", "0::/job\n");
  machine.write("sys/fs/cgroup/job/cpu.max", "250000 100000\n");
  results = check_cores(machine.options());
  CHECK(result_of(results, "cpu.cores").verdict == Verdict::kWarn);
  CHECK(result_of(results, "cpu.quota").verdict == Verdict::kWarn);
  CHECK(result_of(results, "cpu.quota").found == "2.5 of 8 cores");
}

TEST_CASE("steal and throttling count while they are watched only") {
  Machine machine;
  const std::string counter = "sys/devices/system/cpu/cpu0/thermal_throttle/core_throttle_count";
  machine.write("proc/stat", "cpu  100 0 0 800 0 0 0 100 0 0\ncpu0 1 1\n");
  machine.write(counter, "7\n");
  machine.write("sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq", "2000000\n");
  machine.write("sys/devices/system/cpu/cpu0/cpufreq/cpuinfo_max_freq", "3000000\n");
  // The fault comes half a second into the watch of one second, or later: then both read the same,
  // and the case is tried again.
  CheckResult steal, heat;
  Results results;
  for (int i = 0; i < 20 && steal.verdict != Verdict::kFail; ++i) {
    machine.write("proc/stat", "cpu  100 0 0 800 0 0 0 100 0 0\ncpu0 1 1\n");
    machine.write(counter, "7\n");
    std::thread fault([&] {
      std::this_thread::sleep_for(std::chrono::milliseconds(100));
      machine.write("proc/stat", "cpu  150 0 0 810 0 0 0 140 0 0\ncpu0 1 1\n");
      machine.write(counter, "9\n");
    });
    results = check_steal_and_throttling(machine.options(), std::chrono::milliseconds(200));
    fault.join();
    steal = result_of(results, "cpu.steal"), heat = result_of(results, "cpu.throttling");
  }
  CHECK(steal.value == 0.4);
  CHECK(steal.verdict == Verdict::kFail);
  CHECK(heat.verdict == Verdict::kWarn);
  CHECK(heat.found.find("2 times") == 0);
  CHECK(result_of(results, "cpu.frequency").verdict == Verdict::kWarn);
}

TEST_CASE("ranks whose launcher is gone are left over; agents, other parents and others are not") {
  Machine machine;
  const auto process = [&machine](int pid, const std::string& name, char state, int parent,
                                  const std::string& command, const std::string& environment) {
    const std::string folder = "proc/" + std::to_string(pid) + "/";
    machine.write(folder + "stat", std::to_string(pid) + " (" + name + ") " + state + " " +
                                       std::to_string(parent) + " 1 1\n");
    machine.write(folder + "cmdline", command);
    machine.write(folder + "environ", environment);
  };
  using namespace std::string_literals;
  const std::string rank = "PATH=/bin\0RANK=3\0CONVOY_JOB_ID=j1\0"s;
  process(10, "bash", 'S', 1, "bash\0"s, "PATH=/bin\0"s);
  process(11, "train", 'S', 9, "train\0"s, rank);                               // has a launcher
  process(12, "convoy", 'S', 1, "/usr/bin/convoy\0agent\0--name\0x\0"s, rank);  // ends by itself
  machine.write("proc/uptime", "1 1\n");
  CHECK(result_of(check_processes(machine.options()), "processes.leftover").verdict ==
        Verdict::kOk);

  process(13, "tra) S 9 (in", 'D', 1, "train\0"s, rank);
  process(14, "train", 'Z', 1, "", "");
  const Results results = check_processes(machine.options());
  const CheckResult leftover = result_of(results, "processes.leftover");
  CHECK(leftover.verdict == Verdict::kFail);
  CHECK(leftover.found == "1: 13 (tra) S 9 (in)");
  CHECK(result_of(results, "processes.zombies").found == "1: 14 (train)");
  CHECK(result_of(results, "processes.zombies").verdict == Verdict::kOk);
  for (int pid = 100; pid < 150; ++pid) process(pid, "train", 'Z', 1, "", "");
  CHECK(result_of(check_processes(machine.options()), "processes.zombies").verdict ==
        Verdict::kWarn);
}

TEST_CASE("lowered limits are found") {
  const auto lowered = [](int resource, rlim_t soft) {
    return in_child([=]() -> Results {
      rlimit limit{};
      ::getrlimit(resource, &limit);
      limit.rlim_cur = soft;
      if (::setrlimit(resource, &limit) != 0) return {};
      return check_limits({});
    });
  };
  CHECK(result_of(lowered(RLIMIT_NOFILE, 128), "limits.open_files").verdict == Verdict::kFail);
  const CheckResult files = result_of(lowered(RLIMIT_NOFILE, 1024), "limits.open_files");
  CHECK(files.verdict == Verdict::kWarn);
  CHECK(files.found.find("1024") == 0);
  CHECK(result_of(lowered(RLIMIT_FSIZE, 1 << 20), "limits.file_size").verdict == Verdict::kFail);
  CHECK(result_of(lowered(RLIMIT_MEMLOCK, 64 << 10), "limits.locked_memory").verdict ==
        Verdict::kWarn);
}

TEST_CASE("a file size limit breaks shared memory, and is seen there, too") {
  const Results results = in_child([]() -> Results {
    ::signal(SIGXFSZ, SIG_IGN);
    const rlimit limit{4096, 4096};
    if (::setrlimit(RLIMIT_FSIZE, &limit) != 0) return {};
    return check_shared_memory({});
  });
  CHECK(result_of(results, "shared_memory.memfd").verdict == Verdict::kFail);
}

TEST_CASE("an RDMA adapter asks for unlimited locked memory") {
  Machine machine;
  machine.write("sys/class/infiniband/mlx5_0/node_type", "1\n");
  const Results results = in_child([&]() -> Results {
    const rlimit limit{1 << 20, 1 << 20};
    if (::setrlimit(RLIMIT_MEMLOCK, &limit) != 0) return {};
    return check_limits(machine.options());
  });
  CHECK(result_of(results, "limits.locked_memory").verdict == Verdict::kFail);
}

TEST_CASE("lists of cores") {
  CHECK(count_of_list("0") == 1);
  CHECK(count_of_list("0-3,8,10-11") == 7);
  for (const char* wrong : {"", "x", "3-1", "1,,2", "-1"}) CHECK_FALSE(count_of_list(wrong));
}

TEST_CASE("this machine is read") {
  CHECK(result_of(check_cores({}), "cpu.cores").verdict != Verdict::kSkipped);
  CHECK(check_available_memory({})[0].value > 0);
  CHECK(result_of(check_shared_memory({}), "shared_memory.memfd").verdict == Verdict::kOk);
  CHECK(result_of(check_kernel({}), "kernel.pidfd").verdict == Verdict::kOk);
  const Results bandwidth = check_memory_bandwidth({}, std::chrono::milliseconds(20));
  CHECK(result_of(bandwidth, "memory.copy_one_core").value > 0);
  CHECK(result_of(bandwidth, "memory.copy_all_cores").value > 0);
}
