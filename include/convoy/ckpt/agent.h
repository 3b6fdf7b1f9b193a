#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <functional>
#include <string>

namespace convoy::ckpt {

struct AgentOptions {
  std::string name = {};  // of its abstract unix socket
  // Readable, or closed by the other end, when whoever started the agent has gone; -1: nobody.
  int lifeline = -1;
  // Ends by itself when nobody has been connected for so long and all is durable; 0: never.
  Nanos idle_exit{0};
  std::function<void()> ready = {};  // called once it listens; may be empty
};

// `convoy agent`: the process of a node that keeps its ranks' snapshots and carries them to the
// tiers, so that a trainer may die at any moment after a save.
//
// Serves ranks of one job, of this user only, one generation of workers after the other: the newest
// whole step of the generation before stays until the new one has a whole step of its own. One
// thread for messages, one for the disk. Returns on SIGTERM, the end of the lifeline or
// idleness, once what was staged is durable (a second SIGTERM: at once). Blocks until then.
// kAlreadyExists: somebody has the name.
Status run_agent(const AgentOptions& options);

}  // namespace convoy::ckpt
