// The agent's life: what it listens to, when it ends, and what it waits for then.
#include "ckpt/service/agent_server.h"
#include <convoy/base/log.h>
#include <convoy/base/packet.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <csignal>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr auto kDrainEvery = 100ms;  // looks whether all is written

}  // namespace

Status Agent::run() {
  CONVOY_ASSIGN_OR_RETURN(loop_, EventLoop::create());
  if (options_.listener >= 0) {
    listener_.reset(options_.listener);
  } else {
    CONVOY_ASSIGN_OR_RETURN(listener_, listen_packets(options_.name));
  }
  CONVOY_RETURN_IF_ERROR(watch_signals());
  CONVOY_RETURN_IF_ERROR(watch());
  rest();
  if (options_.ready) options_.ready();
  CONVOY_RETURN_IF_ERROR(loop_->run());
  scrubber_.reset();
  sessions_.clear();
  job_.reset();
  before_.reset();
  // Nothing is left for them, or somebody wants the end at once.
  if (remote_ != nullptr) remote_->abandon();
  remote_.reset();
  cluster_.reset();
  disk_.reset();  // waits for what it is writing
  return ok_status();
}

Status Agent::watch_signals() {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGTERM);
  sigaddset(&set, SIGINT);
  ::pthread_sigmask(SIG_BLOCK, &set, nullptr);
  ::signal(SIGPIPE, SIG_IGN);  // who read the log may have died
  signals_.reset(::signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK));
  wake_.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!signals_ || !wake_) return errno_status("making the agent's signals", errno);
  CONVOY_RETURN_IF_ERROR(loop_->watch(signals_.get(), EPOLLIN, [this](uint32_t) {
    signalfd_siginfo info{};
    while (::read(signals_.get(), &info, sizeof info) == sizeof info) {
      if (options_.launcher >= 0) continue;
      ending_ ? loop_->stop() : end();  // the second time: at once
    }
  }));
  return loop_->watch(wake_.get(), EPOLLIN, [this](uint32_t) { run_posted(); });
}

Status Agent::watch() {
  for (const int line : {options_.lifeline, options_.launcher}) {
    if (line < 0) continue;
    CONVOY_RETURN_IF_ERROR(loop_->watch(line, EPOLLIN | EPOLLHUP, [this, line](uint32_t) {
      loop_->unwatch(line);
      end();
    }));
  }
  return loop_->watch(listener_.get(), EPOLLIN, [this](uint32_t) { on_connect(); });
}

// Counts the time that nobody is here from now on.
void Agent::rest() {
  loop_->cancel(idle_);
  if (options_.idle_exit == Nanos(0) || !sessions_.empty() || ending_) return;
  idle_ = loop_->after(options_.idle_exit, [this] {
    if (is_writing() || (job_ != nullptr && job_->busy())) return rest();
    CONVOY_LOG(Info) << "nobody was here for " << format_duration(options_.idle_exit)
                     << ", and all is written: the agent ends";
    end();
  });
}

void Agent::post(std::function<void()> what) {
  {
    const std::lock_guard lock(mutex_);
    posted_.push_back(std::move(what));
  }
  const uint64_t one = 1;
  [[maybe_unused]] const auto written = ::write(wake_.get(), &one, sizeof one);
}

void Agent::run_posted() {
  uint64_t count = 0;
  [[maybe_unused]] const auto got = ::read(wake_.get(), &count, sizeof count);
  std::vector<std::function<void()>> all;
  {
    const std::lock_guard lock(mutex_);
    all.swap(posted_);
  }
  for (const auto& what : all) what();
}

void Agent::end() {
  if (ending_) return;
  ending_ = true;
  // What was to stay in memory has to go to the disk now.
  if (job_ != nullptr && !job_->flush() && before_ != nullptr) before_->flush();
  drain();
}

// Whether a step is on its way to some tier.
bool Agent::is_writing() const {
  const bool between = (job_ != nullptr && job_->between_tiers()) ||
                       (before_ != nullptr && before_->between_tiers());
  return between || (disk_ != nullptr && disk_->jobs() > 0) ||
         (remote_ != nullptr && remote_->progress().jobs > 0);
}

void Agent::drain() {
  DiskTier::Progress progress;
  if (disk_ != nullptr) progress = disk_->progress();
  // The folder first; then the store has the rest of the time.
  if (progress.jobs == 0 && remote_ != nullptr && is_writing()) {
    const RemoteTier::Progress remote = remote_->progress();
    progress = {std::max<size_t>(1, remote.jobs), remote.step, remote.done, remote.total, {}};
  }
  const auto number = [](uint64_t value) { return " " + std::to_string(value); };
  if (progress.jobs > 0) {
    tell_launcher("writing" + number(progress.step) + number(progress.done) +
                  number(progress.total) + number(progress.jobs - 1));
    loop_->after(kDrainEvery, [this] { drain(); });
    return;
  }
  // A step that waits for other nodes; it has a deadline.
  if (job_ != nullptr && job_->busy()) {
    loop_->after(kDrainEvery, [this] { drain(); });
    return;
  }
  if (!progress.failed.ok()) {
    tell_launcher("lost" + number(progress.step) + " " + progress.failed.message());
  } else if (disk_ == nullptr && remote_ != nullptr && !remote_->progress().status.ok()) {
    const RemoteTier::Progress remote = remote_->progress();
    tell_launcher("lost" + number(remote.step) + " " + remote.status.message());
  }
  loop_->stop();
}

// So that a launcher whose agent dies knows what was lost by that.
void Agent::tell_what_is_owed() {
  tell_tiers();
  std::optional<uint64_t> owed;
  for (const auto& job : {job_, before_}) {
    if (!owed && job != nullptr) owed = job->owed();
  }
  if (owed == told_owed_) return;
  told_owed_ = owed;
  tell_launcher(owed ? "owes " + std::to_string(*owed) : "owes nothing");
}

// For `convoy status`: "tiers STAGED REPLICATED LOCAL REMOTE", the newest step in each, - for none.
void Agent::tell_tiers() {
  if (job_ == nullptr) return;
  auto now = told_tiers_;
  std::string text = "tiers";
  for (size_t i = 0; i < kTiers; ++i) {
    if (const auto newest = job_->newest_in(static_cast<Tier>(i))) now[i] = newest;
    text += now[i] ? " " + std::to_string(*now[i]) : " -";
  }
  if (now == told_tiers_) return;
  told_tiers_ = now;
  tell_launcher(text);
}

void Agent::tell_launcher(const std::string& text) {
  constexpr size_t kTextMax = 2000;
  if (options_.launcher < 0) return;
  [[maybe_unused]] const auto told = ::send(
      options_.launcher, text.data(), std::min(text.size(), kTextMax), MSG_DONTWAIT | MSG_NOSIGNAL);
}

Status run_agent(const AgentOptions& options) {
  set_log_identity("agent");
  return Agent(options).run();
}

}  // namespace convoy::ckpt
