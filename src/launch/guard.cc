// The guardian: the process that the user started and sees. It does nothing but pass signals on
// and clean up, so it is unlikely to be the one that fails; and if it is killed, the launcher
// proper notices through the lifeline. Either one alone is enough to end the job.
#include "src/launch/process.h"
#include <convoy/base/clock.h>
#include <convoy/launch/launcher.h>

#include <array>
#include <cerrno>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

// The launcher forwards the first and kills on the second; should it hang, a third ends all.
constexpr int kSignalsForwarded = 2;

sigset_t handled_signals() {
  sigset_t set;
  ::sigemptyset(&set);
  for (const int signal : {SIGINT, SIGTERM, SIGHUP, SIGCHLD}) ::sigaddset(&set, signal);
  return set;
}

// The launcher has died: what ranks have saved must not die with it.
void drain_alone(AgentLine& agent) {
  const sigset_t handled = handled_signals();
  int signals = 0;
  bool told = false;
  const Status drained = drain_agent(agent, [&](const DrainNews& news) {
    if (!told && !news.what().empty()) {
      std::fprintf(stderr, "convoy: waiting until it is written: %s\n", news.what().c_str());
      told = true;
    }
    const timespec at_once{};
    const int signal = ::sigtimedwait(&handled, nullptr, &at_once);
    if (signal > 0 && signal != SIGCHLD) ++signals;
    return signals > 0;
  });
  if (!drained.ok()) std::fprintf(stderr, "convoy: %s\n", drained.message().c_str());
}

int finish(int wait_status, AgentLine& agent) {
  if (WIFEXITED(wait_status)) {
    end_descendants(Nanos(0));
    return WEXITSTATUS(wait_status);
  }
  end_descendants(Nanos(0), {agent.pid->load()});
  std::fprintf(stderr, "convoy: the launcher was killed by %s; all ranks were ended.\n",
               signal_name(WTERMSIG(wait_status)).c_str());
  drain_alone(agent);
  end_descendants(Nanos(0));
  return kExitSignalBase + WTERMSIG(wait_status);
}

int watch_over(pid_t launcher, AgentLine& agent) {
  const sigset_t handled = handled_signals();
  int signals = 0;
  while (true) {
    siginfo_t info{};
    const int signal = ::sigwaitinfo(&handled, &info);
    int wait_status = 0;
    if (::waitpid(launcher, &wait_status, WNOHANG) == launcher) {
      return finish(wait_status, agent);
    }
    if (signal < 0) continue;
    if (signal == SIGCHLD) {
      reap_adopted([launcher](pid_t pid) { return pid == launcher; });
    } else if (++signals > kSignalsForwarded) {
      end_descendants(Nanos(0));
      return kExitSignalBase + signal;
    } else {
      ::kill(launcher, signal);
    }
  }
}

}  // namespace

Result<int> guard(AgentLine& agent, const std::function<int(UniqueFd lifeline)>& body) {
  const sigset_t handled = handled_signals();
  sigset_t before;
  ::sigprocmask(SIG_BLOCK, &handled, &before);
  CONVOY_RETURN_IF_ERROR(become_subreaper());
  std::array<int, 2> ends{};
  if (::pipe2(ends.data(), O_CLOEXEC) != 0) return errno_status("making a pipe", errno);
  UniqueFd lifeline(ends[0]);
  UniqueFd held(ends[1]);
  const pid_t launcher = ::fork();
  if (launcher < 0) return errno_status("forking the launcher", errno);
  if (launcher == 0) {
    held.reset();
    // Out of the terminal's foreground group: Ctrl-C reaches the guardian alone and is counted
    // once. Writing to the terminal must still be allowed.
    ::setpgid(0, 0);
    ::signal(SIGTTOU, SIG_IGN);
    const int code = body(std::move(lifeline));
    std::fflush(nullptr);
    ::_exit(code);
  }
  lifeline.reset();
  agent.theirs.reset();
  const int code = watch_over(launcher, agent);
  ::sigprocmask(SIG_SETMASK, &before, nullptr);
  return code;
}

}  // namespace convoy::launch
