#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <string>

// How a worker comes to its node's agent.
namespace convoy::ckpt {

// With launch::Environment `e`: {.agent = e.agent, .job = launch::local_job(e), .program =
// e.program}.
struct AgentPlace {
  std::string agent;    // the name that `convoy run` gave (CONVOY_AGENT); empty: none
  std::string job;      // the same for all ranks of a job on this machine, and no other job's
  std::string program;  // the program `convoy` (CONVOY_BIN); empty: looked for
  // Of an agent that is started here: how long it waits for a restarted trainer, after the last has
  // gone and all is durable.
  Nanos idle_exit = std::chrono::seconds(60);
  Nanos timeout = std::chrono::seconds(60);  // until an agent answers
};

// The name of this node's agent, for ClientOptions::agent. If `convoy run` has given none, starts
// one for the job and user, unless another rank has: a process of its own session that writes to
// this process's stderr, outlives it, and ends by itself (idle_exit). A SIGTERM to it (`convoy
// agent --help`) ends it earlier.
//
// Blocks until the agent answers. kDeadlineExceeded if it doesn't in time (also: one of this name
// that is ending was not done), kNotFound with all places where no `convoy` was, kUnavailable if it
// could not start; it has said on stderr why. Any thread.
Result<std::string> ensure_agent(const AgentPlace& place);

}  // namespace convoy::ckpt
