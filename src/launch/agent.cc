// The agent as the launcher's child. What it does: ckpt/service.
#include "src/launch/agent.h"

#include <convoy/base/socket.h>

#include <cerrno>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <utility>

namespace convoy::launch {
namespace {

constexpr int kBacklog = 4096;
// One that dies so soon is not started for ever.
constexpr Nanos kEarly = std::chrono::seconds(1);
constexpr int kEarlyDeathsMax = 3;

}  // namespace

Result<std::unique_ptr<Agent>> Agent::create(Options options, EventLoop& loop, Terminal& terminal,
                                             AgentLine& line,
                                             std::function<void(const AgentExit&)> died) {
  std::unique_ptr<Agent> agent(
      new Agent(std::move(options), loop, terminal, line, std::move(died)));
  CONVOY_RETURN_IF_ERROR(agent->listen());
  return agent;
}

Agent::Agent(Options options, EventLoop& loop, Terminal& terminal, AgentLine& line,
             std::function<void(const AgentExit&)> died)
    : options_(std::move(options)),
      loop_(loop),
      terminal_(terminal),
      line_(line),
      died_(std::move(died)),
      name_("convoy-run-" + random_hex()) {}

Agent::~Agent() {
  if (listener_) loop_.unwatch(listener_.get());
  loop_.unwatch(line_.ours.get());
  if (!child_) return;
  loop_.unwatch(child_->pidfd.get());
}

Status Agent::listen() {
  listener_.reset(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  sockaddr_un address{};
  const socklen_t size = abstract_address(name_, &address);
  if (!listener_ || ::bind(listener_.get(), reinterpret_cast<sockaddr*>(&address), size) != 0 ||
      ::listen(listener_.get(), kBacklog) != 0) {
    return errno_status("listening for the agent", errno);
  }
  await_ranks();
  return loop_.watch(line_.ours.get(), EPOLLIN, [this](uint32_t) { hear(line_); });
}

void Agent::await_ranks() {
  const Status watched = loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { start(); });
  if (!watched.ok()) terminal_.say("convoy: the agent can't be started: " + watched.message());
}

void Agent::start() {
  loop_.unwatch(listener_.get());
  const Status started = try_to_start();
  if (started.ok()) return;
  listener_.reset();  // whoever asks is told at once
  terminal_.say("convoy: the agent, which keeps checkpoints, can't be started; saves will fail: " +
                started.message());
}

Status Agent::try_to_start() {
  if (!log_) {
    CONVOY_ASSIGN_OR_RETURN(log_, RankLog::open(options_.log_path));
  }
  const auto number = [](const UniqueFd& fd) { return std::to_string(fd.get()); };
  const std::vector<std::string> words{
      options_.program, "agent",           "--name",     name_,
      "--listener",     number(listener_), "--launcher", number(line_.theirs)};
  SpawnOptions how;
  how.outlives_us = true;
  how.kept = {listener_.get(), line_.theirs.get()};
  CONVOY_ASSIGN_OR_RETURN(child_, spawn(options_.program, words, options_.environment, how));
  line_.pid->store(child_->pid);
  started_at_ = Clock::system().now();
  CONVOY_RETURN_IF_ERROR(
      loop_.watch(child_->pidfd.get(), EPOLLIN, [this](uint32_t) { on_exit(); }));
  lines_.emplace(loop_, *child_, [this](std::string_view line, bool) {
    log_->add(line);
    log_->flush();
    terminal_.add(kNoRank, line, true);
    terminal_.flush();
  });
  return lines_->watch();
}

void Agent::on_exit() {
  AgentExit exit{child_->pid, 0};
  if (::waitpid(exit.pid, &exit.wait_status, WNOHANG) != exit.pid) return;
  line_.pid->store(0);
  hear(line_);
  line_.owed.agent_died();
  loop_.unwatch(child_->pidfd.get());
  lines_->finish();
  lines_.reset();
  child_.reset();
  died_(exit);
  early_deaths_ = Clock::system().now() - started_at_ < kEarly ? early_deaths_ + 1 : 0;
  if (early_deaths_ < kEarlyDeathsMax) return await_ranks();
  listener_.reset();
  terminal_.say("convoy: the agent ended at once " + std::to_string(early_deaths_) +
                " times in a row and is not started again: saves will fail.");
}

Status Agent::drain(const DrainTick& tick) {
  if (listener_) loop_.unwatch(listener_.get());
  listener_.reset();
  if (!child_ && early_deaths_ >= kEarlyDeathsMax) {
    return {Code::kUnavailable, "the agent died whenever it was started."};
  }
  if (child_) CONVOY_RETURN_IF_ERROR(drain_child(tick));
  const std::optional<uint64_t> lost = line_.owed.lost();
  if (!lost) return ok_status();
  return {Code::kUnavailable, "the agent died before it had written checkpoint step " +
                                  std::to_string(*lost) + ", and nothing newer was written."};
}

Status Agent::drain_child(const DrainTick& tick) {
  loop_.unwatch(child_->pidfd.get());
  const Status drained = drain_agent(line_, [&](const DrainNews& news) {
    lines_->read();
    return tick(news);
  });
  lines_->finish();
  lines_.reset();
  child_.reset();
  return drained;
}

}  // namespace convoy::launch
