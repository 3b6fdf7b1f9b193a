// Children with deadlines. A thread could not be given up: a process does not end while one of its
// threads hangs in the kernel, as on a dead file server. A child can: it is killed, or if the
// kernel does not let it die, left behind.
#include "src/resilience/doctor/runner.h"

#include "src/resilience/doctor/report.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <csignal>
#include <cstring>
#include <exception>
#include <fcntl.h>
#include <poll.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::resilience {
namespace {

constexpr size_t kBytesMax = 1UL << 20;  // of one check's results
constexpr Nanos kReapMax = std::chrono::milliseconds(200);
constexpr Nanos kReapPause = std::chrono::milliseconds(2);

CheckResult failure(const Check& check, std::string what, std::string expected,
                    std::string advice) {
  CheckResult result = judged(found(check.name, std::move(what)), false, Verdict::kFail,
                              std::move(expected), std::move(advice));
  result.subject = check.subject;
  return result;
}

Results cannot_start(const Check& check, int error) {
  return {failure(check, std::string("can't be started: ") + std::strerror(error),
                  "a child process", "Raise the limits on processes, descriptors and memory.")};
}

// The child keeps nothing of ours but `pipe`: held open, a caller's pipe or a listening socket
// would outlive us if the child can't die.
int keep_only(int pipe) {
  const int null = ::open("/dev/null", O_RDWR);
  for (int fd = 0; fd < 3; ++fd) ::dup2(null, fd);
  constexpr int kPipe = 3;
  if (pipe != kPipe) ::dup2(pipe, kPipe);
  ::syscall(SYS_close_range, kPipe + 1, ~0U, 0);
  return kPipe;
}

[[noreturn]] void run_child(const Check& check, int pipe, pid_t parent) {
  ::prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (::getppid() != parent) ::_exit(1);  // it died before prctl
  pipe = keep_only(pipe);
  Results results;
  try {
    results = check.run();
  } catch (const std::exception& error) {  // of the standard library: no memory, no threads
    results = {failure(check, error.what(), "a check that runs",
                       "Raise the limits on processes and memory.")};
  }
  const std::string text = results_to_json(results);
  for (size_t sent = 0; sent < text.size();) {
    const ssize_t n = ::write(pipe, text.data() + sent, text.size() - sent);
    if (n <= 0) break;
    sent += static_cast<size_t>(n);
  }
  ::_exit(0);
}

// False if it does not end within kReapMax. `status` as of waitpid().
bool reap(pid_t pid, int* status) {
  const Deadline deadline = Deadline::after(kReapMax);
  while (true) {
    const pid_t ended = ::waitpid(pid, status, WNOHANG);
    if (ended == pid || (ended < 0 && errno != EINTR)) return true;
    if (deadline.passed()) return false;
    std::this_thread::sleep_for(kReapPause);
  }
}

std::string end_of(int status) {
  if (WIFSIGNALED(status)) {
    return std::string("the check was ended by a signal: ") + ::strsignal(WTERMSIG(status));
  }
  return "the check ended with exit code " + std::to_string(WEXITSTATUS(status));
}

}  // namespace

Runner::~Runner() {
  for (Started& started : checks_) {
    if (started.pipe) give_up(started);
  }
}

size_t Runner::start(Check check) {
  Started& started = checks_.emplace_back();
  started.check = std::move(check);
  const size_t place = checks_.size() - 1;
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) {
    started.results = cannot_start(started.check, errno);
    return place;
  }
  UniqueFd from(ends[0]), to(ends[1]);
  const pid_t parent = ::getpid();
  const pid_t child = ::fork();
  if (child == 0) run_child(started.check, to.get(), parent);
  if (child < 0) {
    started.results = cannot_start(started.check, errno);
    return place;
  }
  started.deadline = Deadline::after(started.check.deadline);
  started.pid = child;
  started.pipe = std::move(from);
  return place;
}

void Runner::wait(Phase phase) {
  while (true) {
    std::vector<pollfd> polled;
    std::vector<Started*> running;
    bool is_waiting = false;
    Deadline next = Deadline::never();
    for (Started& started : checks_) {
      if (!started.pipe) continue;
      is_waiting |= started.check.phase == phase;
      running.push_back(&started);
      polled.push_back({.fd = started.pipe.get(), .events = POLLIN, .revents = 0});
      next = Deadline(std::min(next.at(), started.deadline.at()));
    }
    if (!is_waiting) return;
    const int64_t ms = std::chrono::ceil<std::chrono::milliseconds>(next.left()).count();
    if (::poll(polled.data(), polled.size(), static_cast<int>(ms)) < 0) continue;
    for (size_t i = 0; i < running.size(); ++i) {
      if (polled[i].revents != 0) {
        read(*running[i]);
      } else if (running[i]->deadline.passed()) {
        give_up(*running[i]);
      }
    }
  }
}

void Runner::read(Started& started) {
  std::array<char, 65536> buffer;
  const ssize_t n = ::read(started.pipe.get(), buffer.data(), buffer.size());
  if (n < 0 && errno == EINTR) return;
  if (n > 0 && started.bytes.size() + static_cast<size_t>(n) <= kBytesMax) {
    started.bytes.append(buffer.data(), static_cast<size_t>(n));
    return;
  }
  end(started);
}

void Runner::end(Started& started) {
  started.pipe.reset();
  int status = 0;
  const bool has_ended = reap(started.pid, &status);
  Result<Results> results = results_from_json(started.bytes);
  if (results.ok()) {
    started.results = std::move(results).value();
  } else {
    started.results = {failure(started.check,
                               has_ended ? end_of(status) : "the check says nothing and stays",
                               "a check that runs", started.check.advice)};
  }
}

void Runner::give_up(Started& started) {
  started.pipe.reset();
  ::kill(started.pid, SIGKILL);
  int status = 0;
  const bool has_ended = reap(started.pid, &status);
  const double limit = std::chrono::duration<double>(started.check.deadline).count();
  started.results = {failure(
      started.check,
      "timed out" + std::string(has_ended ? "" : ", and hangs in the kernel, so it can't be ended"),
      "an end within " + format_value(limit, "s"), started.check.advice)};
}

}  // namespace convoy::resilience
