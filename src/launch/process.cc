// Starting ranks and ending whole trees of processes. Relies on Linux: child subreapers make every
// orphan below us our child, so "no children left" means that nothing is left.
#include "src/launch/process.h"

#include <convoy/base/clock.h>
#include <convoy/base/fault.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fcntl.h>
#include <filesystem>
#include <fstream>
#include <map>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr Nanos kGiveUpAfter = std::chrono::seconds(5);
constexpr Nanos kReapPause = std::chrono::milliseconds(2);

struct Pipe {
  UniqueFd read;
  UniqueFd write;
};

Result<Pipe> make_pipe() {
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status("making a pipe", errno);
  return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

std::vector<char*> pointers(const std::vector<std::string>& texts) {
  std::vector<char*> result;
  for (const std::string& text : texts) result.push_back(const_cast<char*>(text.c_str()));
  result.push_back(nullptr);
  return result;
}

// Runs in the new process: only async-signal-safe calls. An errno that stops it goes up `report`.
[[noreturn]] void become_program(const char* path, char* const* arguments, char* const* environment,
                                 const SpawnOptions& how, int out, int err, int report,
                                 pid_t parent) {
  ::setpgid(0, 0);
  if (!how.outlives_us) {
    ::prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (::getppid() != parent) ::_exit(125);  // it died before prctl
  }
  for (const int fd : how.kept) ::fcntl(fd, F_SETFD, 0);
  sigset_t none;
  ::sigemptyset(&none);
  ::sigprocmask(SIG_SETMASK, &none, nullptr);
  for (const int signal : {SIGPIPE, SIGTTOU, SIGINT, SIGTERM, SIGHUP, SIGCHLD}) {
    ::signal(signal, SIG_DFL);
  }
  const int null = ::open("/dev/null", O_RDONLY);
  if (null < 0 || ::dup2(null, 0) < 0 || ::dup2(out, 1) < 0 || ::dup2(err, 2) < 0) {
    const int error = errno;
    ::_exit(::write(report, &error, sizeof(error)) == sizeof(error) ? 126 : 125);
  }
  if (null > 2) ::close(null);
  ::execve(path, arguments, environment);
  const int error = errno;
  ::_exit(::write(report, &error, sizeof(error)) == sizeof(error) ? 126 : 125);
}

Status check_executable(const std::string& path) {
  struct stat info {};
  if (::stat(path.c_str(), &info) != 0) return errno_status(path, errno);
  if (S_ISDIR(info.st_mode)) {
    return {Code::kFailedPrecondition, "'" + path + "' is a folder, not a program."};
  }
  if (::access(path.c_str(), X_OK) != 0) {
    const std::string hint = path.ends_with(".py")
                                 ? " Start it with its interpreter: python " + path
                                 : " Make it executable: chmod +x " + path;
    return {Code::kFailedPrecondition, "'" + path + "' is not executable." + hint};
  }
  return ok_status();
}

// pid -> parent, of every process that can be seen.
std::map<pid_t, pid_t> all_parents() {
  std::map<pid_t, pid_t> parents;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const pid_t pid = std::atoi(entry.path().filename().c_str());
    if (pid <= 0) continue;
    std::ifstream file(entry.path() / "stat");
    std::string text;
    std::getline(file, text, '\0');  // all of it; an iterator would throw if the process goes
    // "pid (name) state parent ...": the name may hold anything, so look for its last bracket.
    const size_t after_name = text.rfind(')');
    if (after_name == std::string::npos || text.size() < after_name + 4) continue;
    parents[pid] = std::atoi(text.c_str() + after_name + 4);
  }
  return parents;
}

void signal_all(const std::vector<pid_t>& pids, int signal) {
  for (const pid_t pid : pids) ::kill(pid, signal);
}

// True when this process has no children any more.
bool reap_all() {
  pid_t pid = 0;
  do {
    pid = ::waitpid(-1, nullptr, WNOHANG);
  } while (pid > 0);
  return pid < 0 && errno == ECHILD;
}

}  // namespace

Result<std::string> find_program(const std::string& program) {
  if (program.find('/') != std::string::npos) {
    const Status status = check_executable(program);
    if (status.code() == Code::kNotFound) {
      return Status(Code::kNotFound, "There is no program '" + program + "'.");
    }
    if (!status.ok()) return status;
    return program;
  }
  const char* path = std::getenv("PATH");
  std::string_view folders = path == nullptr ? "/usr/bin:/bin" : path;
  while (!folders.empty()) {
    const size_t colon = folders.find(':');
    const std::string candidate = std::string(folders.substr(0, colon)) + "/" + program;
    if (check_executable(candidate).ok()) return candidate;
    folders.remove_prefix(colon == std::string_view::npos ? folders.size() : colon + 1);
  }
  const bool is_here = ::access(program.c_str(), F_OK) == 0;
  return Status(Code::kNotFound,
                "There is no program '" + program + "' in PATH." +
                    (is_here ? " For the file in this folder write ./" + program : std::string()));
}

Result<Child> spawn(const std::string& path, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& environment, const SpawnOptions& how) {
  if (fault::strikes("launch.spawn")) return errno_status("forking", EAGAIN);
  CONVOY_ASSIGN_OR_RETURN(Pipe out, make_pipe());
  CONVOY_ASSIGN_OR_RETURN(Pipe err, make_pipe());
  CONVOY_ASSIGN_OR_RETURN(Pipe report, make_pipe());
  const std::vector<char*> argv = pointers(arguments);
  const std::vector<char*> envp = pointers(environment);
  const pid_t parent = ::getpid();
  const pid_t pid = ::fork();
  if (pid < 0) return errno_status("forking", errno);
  if (pid == 0) {
    become_program(path.c_str(), argv.data(), envp.data(), how, out.write.get(), err.write.get(),
                   report.write.get(), parent);
  }
  ::setpgid(pid, pid);  // both sides do it, so that it holds before either goes on
  report.write.reset();
  int error = 0;
  if (::read(report.read.get(), &error, sizeof(error)) == sizeof(error)) {
    ::waitpid(pid, nullptr, 0);
    return errno_status("starting '" + path + "'", error);
  }
  Child child{pid, UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0))),
              std::move(out.read), std::move(err.read)};
  if (!child.pidfd) return errno_status("watching process " + std::to_string(pid), errno);
  for (const int fd : {child.out.get(), child.err.get()}) ::fcntl(fd, F_SETFL, O_NONBLOCK);
  return child;
}

Status become_subreaper() {
  if (::prctl(PR_SET_CHILD_SUBREAPER, 1) != 0) return errno_status("adopting orphans", errno);
  return ok_status();
}

std::vector<pid_t> descendants() {
  const std::map<pid_t, pid_t> parents = all_parents();
  std::vector<pid_t> found{::getpid()};
  for (size_t i = 0; i < found.size(); ++i) {
    for (const auto& [pid, parent] : parents) {
      if (parent == found[i]) found.push_back(pid);
    }
  }
  found.erase(found.begin());
  return found;
}

void reap_adopted(const std::function<bool(pid_t)>& kept) {
  for (const auto& [pid, parent] : all_parents()) {
    if (parent == ::getpid() && !kept(pid)) ::waitpid(pid, nullptr, WNOHANG);
  }
}

size_t end_descendants(Nanos patience, const std::vector<pid_t>& spared) {
  const auto is_spared = [&](pid_t pid) {
    return std::find(spared.begin(), spared.end(), pid) != spared.end();
  };
  const auto others = [&] {
    std::vector<pid_t> found = descendants();
    std::erase_if(found, is_spared);
    return found;
  };
  const auto all_gone = [&] {
    if (std::all_of(spared.begin(), spared.end(), [](pid_t pid) { return pid == 0; })) {
      return reap_all();
    }
    reap_adopted(is_spared);
    return others().empty();
  };
  if (all_gone()) return 0;
  const std::vector<pid_t> found = others();
  signal_all(found, SIGTERM);
  signal_all(found, SIGCONT);  // a stopped process would not see it
  const Deadline kill_at = Deadline::after(patience);
  const Deadline give_up_at = Deadline::after(patience + kGiveUpAfter);
  while (!all_gone() && !give_up_at.passed()) {
    if (kill_at.passed()) signal_all(others(), SIGKILL);
    Clock::system().sleep_for(kReapPause);
  }
  return found.size();
}

}  // namespace convoy::launch
