// Who records, and how he is: all of it read from /proc.
#include <convoy/trace/traced.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdlib>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <sys/ioctl.h>
#include <sys/syscall.h>
#include <unistd.h>

namespace convoy::trace {
namespace {

namespace fs = std::filesystem;

std::string proc(int pid, const char* file) {
  return "/proc/" + std::to_string(pid) + "/" + file;
}

// Of linux/pidfd.h, which older systems' headers lack.
struct PidfdInfo {
  uint64_t mask, cgroup;
  std::array<uint32_t, 11> ids;
  int32_t exit_code;
};
static_assert(sizeof(PidfdInfo) == 64);
constexpr uint64_t kPidfdInfoExit = 1 << 3;
constexpr unsigned long kPidfdGetInfo = _IOWR(0xff, 11, PidfdInfo);

Life of_state(char state) {
  switch (state) {
    case 'T':
    case 't':
      return Life::kStopped;
    case 'D':
      return Life::kBlocked;
    default:
      return Life::kRunning;
  }
}

// The state of /proc/PID/stat, and the exit status that its last field tells of a zombie. 0: gone.
char read_stat(int pid, int& exit_status) {
  std::ifstream file(proc(pid, "stat"));
  std::string text;
  std::getline(file, text,
               '\0');  // all of it; unlike an iterator it doesn't throw if the process goes
  const size_t name_end = text.rfind(')');  // names may hold anything
  if (name_end == std::string::npos || name_end + 2 >= text.size()) return 0;
  const size_t last = text.find_last_of(' ');
  exit_status = std::atoi(text.c_str() + last + 1);
  return text[name_end + 2];
}

}  // namespace

std::shared_ptr<Segment> segment_of(int pid, bool writable) {
  std::error_code error;
  for (fs::directory_iterator at(proc(pid, "fd"), error), end; !error && at != end;
       at.increment(error)) {
    std::error_code closed;  // meanwhile
    const fs::path target = fs::read_symlink(at->path(), closed);
    if (closed || !target.string().starts_with("/memfd:convoy-trace")) continue;
    const UniqueFd fd(::open(at->path().c_str(), (writable ? O_RDWR : O_RDONLY) | O_CLOEXEC));
    if (!fd) continue;
    const auto segment = Segment::open(fd.get(), writable);
    // A forked child has its parent's open, too.
    if (segment.ok() && (*segment)->pid() == pid) return *segment;
  }
  return nullptr;
}

std::vector<int> all_processes() {
  std::vector<int> pids;
  std::error_code error;
  for (fs::directory_iterator at("/proc", error), end; !error && at != end; at.increment(error)) {
    const std::string name = at->path().filename();
    if (std::ranges::all_of(name, [](unsigned char c) { return std::isdigit(c) != 0; })) {
      pids.push_back(std::atoi(name.c_str()));
    }
  }
  return pids;
}

std::vector<int> children_of(int pid) {
  std::vector<int> children;
  std::error_code error;
  for (fs::directory_iterator at(proc(pid, "task"), error), end; !error && at != end;
       at.increment(error)) {
    std::ifstream file(at->path() / "children");
    for (int child = 0; file >> child;) children.push_back(child);
  }
  return children;
}

std::string environment_of(int pid, const std::string& variable) {
  std::ifstream file(proc(pid, "environ"), std::ios::binary);
  for (std::string line; std::getline(file, line, '\0');) {
    if (line.starts_with(variable + "=")) return line.substr(variable.size() + 1);
  }
  return "";
}

Life life_of_wait_status(int status, int32_t& exit_code) {
  const int signal = status & 0x7f;
  exit_code = signal != 0 ? signal : status >> 8 & 0xff;
  return signal != 0 ? Life::kKilled : Life::kExited;
}

ProcessWatch::ProcessWatch(int pid)
    : pid_(pid), pidfd_(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))) {}

Life ProcessWatch::look(int32_t& exit_code) {
  exit_code = 0;
  int status = 0;
  // Not by its number alone, which may be another process's by now.
  const bool there = pidfd_ && ::syscall(SYS_pidfd_send_signal, pidfd_.get(), 0, nullptr, 0) != 0
                         ? errno == EPERM
                         : static_cast<bool>(pidfd_);
  const char state = there ? read_stat(pid_, status) : 0;
  if (state != 0 && state != 'Z' && state != 'X') return of_state(state);
  if (state != 0) last_ = life_of_wait_status(status, last_code_);
  return ended(exit_code);
}

Life ProcessWatch::ended(int32_t& exit_code) const {
  PidfdInfo info{};
  info.mask = kPidfdInfoExit;
  if (pidfd_ && ::ioctl(pidfd_.get(), kPidfdGetInfo, &info) == 0 &&
      (info.mask & kPidfdInfoExit) != 0) {
    return life_of_wait_status(info.exit_code, exit_code);
  }
  exit_code = last_code_;
  return last_ == Life::kUnknown ? Life::kExited : last_;
}

}  // namespace convoy::trace
