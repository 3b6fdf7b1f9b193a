#include "src/resilience/chaos/strike.h"

#include <convoy/base/fd.h>
#include <convoy/base/process.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <poll.h>
#include <set>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <tuple>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

constexpr int kSeenMs = 10000;
constexpr int kTickMs = 5;
constexpr int64_t kMiB = 1 << 20;

void sleep_ms(double ms) {
  std::this_thread::sleep_for(std::chrono::duration<double, std::milli>(ms));
}

// A process that is held by its descriptor, so that its number can't become another's.
struct Held {
  ProcessId id{};
  UniqueFd fd{};
};

Result<Held> hold(pid_t pid, const Household& home) {
  const auto known = home.all.find(pid);
  if (known == home.all.end()) {
    return Status(Code::kFailedPrecondition,
                  "process " + std::to_string(pid) + " is none of the job's any more");
  }
  Held held{known->second, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)))};
  if (!held.fd || identify(pid) != held.id) {
    return Status(Code::kFailedPrecondition, "process " + std::to_string(pid) + " has just ended");
  }
  return held;
}

Status send(const Held& held, int signal) {
  if (::syscall(SYS_pidfd_send_signal, held.fd.get(), signal, nullptr, 0) == 0) return ok_status();
  return errno_status("sending " + signal_name(signal), errno);
}

Status await_end(const Held& held) {
  pollfd end{held.fd.get(), POLLIN, 0};
  if (::poll(&end, 1, kSeenMs) == 1) return ok_status();
  return {Code::kDeadlineExceeded,
          "process " + std::to_string(held.id.pid) + " lives on after the signal"};
}

// Halted, or ended meanwhile: the launcher may have seen to it.
Status await_halt(const Held& held) {
  for (int waited = 0; waited < kSeenMs; waited += kTickMs) {
    if (is_halted(held.id.pid) || !is_alive(held.id)) return ok_status();
    sleep_ms(kTickMs);
  }
  return {Code::kDeadlineExceeded, "process " + std::to_string(held.id.pid) + " did not halt"};
}

int signal_of(Kind kind) {
  switch (kind) {
    case Kind::kCrash:
      return SIGSEGV;
    case Kind::kTerminate:
      return SIGTERM;
    case Kind::kHalt:
    case Kind::kPause:
    case Kind::kHaltSupervisor:
      return SIGSTOP;
    default:
      return SIGKILL;
  }
}

// All at once; then looks whether it has happened.
Result<Struck> signal_all(const std::vector<pid_t>& pids, Kind kind, double seconds,
                          const Household& home) {
  std::vector<Held> all;
  for (const pid_t pid : pids) {
    CONVOY_ASSIGN_OR_RETURN(Held held, hold(pid, home));
    all.push_back(std::move(held));
  }
  const int signal = signal_of(kind);
  Struck struck;
  for (const Held& held : all) {
    CONVOY_RETURN_IF_ERROR(send(held, signal));
    struck.processes.push_back(held.id);
  }
  for (const Held& held : all) {
    CONVOY_RETURN_IF_ERROR(signal == SIGSTOP ? await_halt(held) : await_end(held));
  }
  if (kind == Kind::kPause) {
    sleep_ms(1000 * seconds);
    for (const Held& held : all) CONVOY_RETURN_IF_ERROR(send(held, SIGCONT));
  }
  return struck;
}

Result<Struck> strike_ranks(const Fault& fault, const StrikeSetting& setting) {
  std::vector<pid_t> pids;
  for (const int rank : fault.ranks) {
    const Seat* seat = setting.sight.of_rank(rank);
    if (seat == nullptr || seat->pid == 0) {
      return Status(Code::kFailedPrecondition,
                    "rank " + std::to_string(rank) + " has no process at this moment");
    }
    pids.push_back(seat->pid);
  }
  CONVOY_ASSIGN_OR_RETURN(Struck struck, signal_all(pids, fault.kind, fault.seconds, setting.home));
  struck.ranks = fault.ranks;
  return struck;
}

// --- helpers: they die with us ---

template <class Work>
pid_t start_helper(Work work) {
  const pid_t pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  work();
  ::_exit(0);
}

Struck start_hogs(int64_t count) {
  Struck struck;
  for (int64_t i = 0; i < count; ++i) {
    struck.helpers.push_back(start_helper([] {
      while (true) std::atomic_signal_fence(std::memory_order_seq_cst);
    }));
  }
  return struck;
}

int64_t free_mib() {
  std::ifstream file("/proc/meminfo");
  std::string word;
  int64_t kib = 0;
  while (file >> word) {
    if (word == "MemAvailable:" && file >> kib) return kib / 1024;
  }
  return 0;
}

int64_t resident_mib(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE) / kMiB;
}

Result<Struck> hold_memory(int64_t mib) {
  if (mib > free_mib() / 2) {
    return Status(Code::kFailedPrecondition, std::to_string(mib) + " MiB are more than half of " +
                                                 std::to_string(free_mib()) +
                                                 " MiB that are free: this machine has others");
  }
  Struck struck;
  struck.helpers.push_back(start_helper([mib] {
    const size_t size = static_cast<size_t>(mib * kMiB);
    void* at = ::mmap(nullptr, size, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (at != MAP_FAILED) ::pause();
  }));
  for (int waited = 0; waited < kSeenMs; waited += kTickMs) {
    if (resident_mib(struck.helpers.front()) >= mib) return struck;
    sleep_ms(kTickMs);
  }
  end_helpers(struck);
  return Status(Code::kDeadlineExceeded, "the memory could not be had");
}

// --- checkpoints ---

// "s000000000120-c00000007" -> (7, 120): the newest record is the one of the highest claim.
std::tuple<int64_t, int64_t, std::string> commit_of(const std::string& name) {
  long long step = -1, claim = -1;
  if (std::sscanf(name.c_str(), "s%lld-c%lld", &step, &claim) != 2) return {-1, -1, ""};
  return {claim, step, name};
}

Status flip_a_bit(const std::filesystem::path& path) {
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return errno_status("opening " + path.string(), errno);
  const off_t at = ::lseek(file.get(), 0, SEEK_END) / 2;
  unsigned char byte = 0;
  if (::pread(file.get(), &byte, 1, at) != 1) return errno_status("reading " + path.string(), EIO);
  byte ^= 1U;
  if (::pwrite(file.get(), &byte, 1, at) != 1) return errno_status("writing " + path.string(), EIO);
  return ok_status();
}

Result<Struck> corrupt(const StrikeSetting& setting) {
  CONVOY_ASSIGN_OR_RETURN(const int64_t step, damage_newest_step(setting.checkpoints));
  std::vector<pid_t> pids;
  std::vector<int> ranks;
  if (setting.home.agent != 0) pids.push_back(setting.home.agent);  // its memory has newer steps
  for (const Seat& seat : setting.sight.seats) {
    pids.push_back(seat.pid);
    ranks.push_back(seat.rank);
  }
  CONVOY_ASSIGN_OR_RETURN(Struck struck, signal_all(pids, Kind::kKill, 0, setting.home));
  struck.ranks = std::move(ranks);
  struck.damaged_step = step;
  return struck;
}

}  // namespace

Result<int64_t> damage_newest_step(const std::string& folder) {
  namespace fs = std::filesystem;
  std::error_code error;
  std::vector<std::tuple<int64_t, int64_t, std::string>> commits;
  for (const auto& entry : fs::directory_iterator(folder + "/commits", error)) {
    commits.push_back(commit_of(entry.path().filename().string()));
    if (std::get<0>(commits.back()) < 0) commits.pop_back();
  }
  if (commits.size() < 2) {
    return Status(Code::kFailedPrecondition,
                  folder + " has " + std::to_string(commits.size()) +
                      " saved steps: at least two are needed, one to damage and one to go on from");
  }
  const auto [claim, step, name] = *std::max_element(commits.begin(), commits.end());
  const fs::path data = fs::path(folder) / "data" / name.substr(0, name.find('-'));
  const std::string writer = name.substr(name.find('-') + 1) + "-";
  fs::path largest;
  for (const auto& entry : fs::recursive_directory_iterator(data, error)) {
    const fs::path& path = entry.path();
    if (path.extension() != ".chunks" ||
        !path.parent_path().filename().string().starts_with(writer)) {
      continue;
    }
    if (largest.empty() || fs::file_size(path, error) > fs::file_size(largest, error)) {
      largest = path;
    }
  }
  if (largest.empty()) {
    return Status(Code::kFailedPrecondition,
                  data.string() + " has no files of step " + std::to_string(step));
  }
  CONVOY_RETURN_IF_ERROR(flip_a_bit(largest));
  return step;
}

Result<Struck> strike(const Fault& fault, const StrikeSetting& setting) {
  const Household& home = setting.home;
  const auto one = [&](pid_t pid, const char* who) -> Result<Struck> {
    if (pid == 0) return Status(Code::kFailedPrecondition, std::string("there is no ") + who);
    return signal_all({pid}, fault.kind, 0, home);
  };
  switch (fault.kind) {
    case Kind::kHog:
      return start_hogs(fault.amount);
    case Kind::kMemory:
      return hold_memory(fault.amount);
    case Kind::kKillSpare:
      return one(home.spares.empty() ? 0 : home.spares.front(), "spare at this moment");
    case Kind::kKillSupervisor:
    case Kind::kHaltSupervisor:
      return one(home.supervisor, "supervisor");
    case Kind::kKillAgent:
      return one(home.agent, "agent at this moment");
    case Kind::kKillTracer:
      return one(home.tracer, "tracer");
    case Kind::kCorrupt:
      return corrupt(setting);
    default:
      return strike_ranks(fault, setting);
  }
}

void end_helpers(Struck& struck) {
  for (const pid_t pid : struck.helpers) {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  struck.helpers.clear();
}

}  // namespace convoy::resilience::chaos
