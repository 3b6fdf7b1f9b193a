#include "src/resilience/chaos/strike.h"

#include "src/resilience/chaos/disk.h"
#include "src/resilience/chaos/flip.h"
#include "src/resilience/chaos/link.h"
#include "src/resilience/chaos/saved.h"
#include <convoy/base/fd.h>
#include <convoy/base/process.h>

#include <algorithm>
#include <atomic>
#include <cerrno>
#include <csignal>
#include <fstream>
#include <poll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
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

Result<pid_t> process_of(int rank, const Sight& sight) {
  const Seat* seat = sight.of_rank(rank);
  if (seat != nullptr && seat->pid != 0) return seat->pid;
  return Status(Code::kFailedPrecondition,
                "rank " + std::to_string(rank) + " has no process at this moment");
}

Result<Struck> flip(const Fault& fault, const StrikeSetting& setting) {
  // In a recovery it could strike a state that is being replaced, and be gone with it.
  if (setting.sight.is_recovering || setting.sight.phase != "training") {
    return Status(Code::kFailedPrecondition, "the job is recovering at this moment");
  }
  CONVOY_ASSIGN_OR_RETURN(const pid_t pid, process_of(fault.ranks.front(), setting.sight));
  CONVOY_ASSIGN_OR_RETURN(const Held held, hold(pid, setting.home));
  Struck struck;
  struck.ranks = fault.ranks;
  const auto flip_it = fault.kind == Kind::kFlip ? flip_a_parameter : flip_a_gradient;
  CONVOY_ASSIGN_OR_RETURN(struck.flipped_step,
                          flip_it(held.id.pid, static_cast<uint64_t>(fault.amount)));
  return struck;
}

Result<Struck> strike_ranks(const Fault& fault, const StrikeSetting& setting) {
  std::vector<pid_t> pids;
  for (const int rank : fault.ranks) {
    CONVOY_ASSIGN_OR_RETURN(const pid_t pid, process_of(rank, setting.sight));
    pids.push_back(pid);
  }
  CONVOY_ASSIGN_OR_RETURN(Struck struck, signal_all(pids, fault.kind, fault.seconds, setting.home));
  struck.ranks = fault.ranks;
  return struck;
}

// --- helpers: they die with us ---

template <class Work>
pid_t start_helper(Work work) {
  const pid_t parent = ::getpid(), pid = ::fork();
  if (pid != 0) return pid;
  ::prctl(PR_SET_PDEATHSIG, SIGTERM);
  if (::getppid() == parent) work();
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

int64_t resident_mib(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/statm");
  int64_t size = 0, resident = 0;
  file >> size >> resident;
  return resident * ::sysconf(_SC_PAGESIZE) / kMiB;
}

Result<Struck> hold_memory(int64_t mib) {
  CONVOY_RETURN_IF_ERROR(may_hold(mib));
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

Result<Struck> strike_disk(Kind kind, const std::string& folder) {
  if (kind == Kind::kDiskFull) CONVOY_RETURN_IF_ERROR(may_fill(folder));
  Struck struck;
  struck.helpers.push_back(
      start_helper([&] { kind == Kind::kDiskFull ? keep_full(folder) : keep_slow(folder); }));
  const Status seen = kind == Kind::kDiskFull ? await_full(folder) : await_slow(folder);
  if (!seen.ok()) {
    end_helpers(struck);
    return seen;
  }
  return struck;
}

Result<Struck> strike_link(const Fault& fault, const std::string& device) {
  CONVOY_RETURN_IF_ERROR(may_shape(device));
  const int64_t rate = fault.kind == Kind::kCutLink ? 0 : fault.amount;
  Struck struck;
  struck.helpers.push_back(start_helper([&] { keep_shaped(device, rate); }));
  const Status seen = await_shaped(device);
  if (!seen.ok()) {
    end_helpers(struck);
    return seen;
  }
  return struck;
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
    case Kind::kFlip:
    case Kind::kFlipGradient:
      return flip(fault, setting);
    case Kind::kDiskFull:
    case Kind::kDiskSlow:
      return strike_disk(fault.kind, setting.checkpoints);
    case Kind::kCutLink:
    case Kind::kSlowLink:
      return strike_link(fault, setting.link);
    default:
      return strike_ranks(fault, setting);
  }
}

void end_helpers(Struck& struck) {
  for (const pid_t pid : struck.helpers) {
    ::kill(pid, SIGTERM);
    ::waitpid(pid, nullptr, 0);
  }
  struck.helpers.clear();
}

}  // namespace convoy::resilience::chaos
