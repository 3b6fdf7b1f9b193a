#pragma once

#include "src/launch/agent_line.h"
#include "src/launch/child_lines.h"
#include "src/launch/output.h"
#include "src/launch/process.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace convoy::launch {

// How an agent ended that nobody had asked to.
struct AgentExit {
  pid_t pid = -1;
  int wait_status = 0;
};

// This machine's agent: a child beside the ranks, which outlives them. The launcher listens in its
// place and starts it when the first rank connects, so that jobs which never save don't pay for it;
// after its death likewise, so that no rank is ever refused. Called by the loop's thread.
class Agent {
 public:
  struct Options {
    std::string program;                   // `convoy`
    std::vector<std::string> environment;  // "NAME=value"
    std::string log_path;
  };
  // `died`: called when it has ended by itself. Loop, terminal and line must outlive this.
  static Result<std::unique_ptr<Agent>> create(Options options, EventLoop& loop, Terminal& terminal,
                                               AgentLine& line,
                                               std::function<void(const AgentExit&)> died);
  ~Agent();

  const std::string& name() const { return name_; }  // of its socket
  pid_t pid() const { return child_ ? child_->pid : 0; }
  const std::string& log_path() const { return options_.log_path; }
  // Starts none any more, and drains the one that runs; see drain_agent(). kUnavailable, too, if
  // one that died has owed a step and nothing newer was written.
  Status drain(const DrainTick& tick);

 private:
  Agent(Options options, EventLoop& loop, Terminal& terminal, AgentLine& line,
        std::function<void(const AgentExit&)> died);
  Status listen();
  void await_ranks();
  void start();
  Status try_to_start();
  void on_exit();
  Status drain_child(const DrainTick& tick);

  const Options options_;
  EventLoop& loop_;
  Terminal& terminal_;
  AgentLine& line_;
  const std::function<void(const AgentExit&)> died_;
  const std::string name_;
  UniqueFd listener_;
  std::optional<RankLog> log_;
  std::optional<Child> child_;
  std::optional<ChildLines> lines_;  // of child_
  TimePoint started_at_{};
  int early_deaths_ = 0;  // in a row
};

}  // namespace convoy::launch
