#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <string>

namespace convoy::ckpt {

// Where agents of other machines reach this one; used by jobs on several machines only.
struct ClusterListen {
  std::string host = {};  // that they know this machine by, and that it binds; empty: its name, all
  uint16_t port = 0;      // 0: the kernel chooses
  // PEM files; all empty: no TLS. `roots` signs the others' certificates.
  std::string certificate = {}, key = {}, roots = {};
};

struct AgentOptions {
  std::string name = {};  // of its abstract unix socket
  // Readable, or closed by the other end, when whoever started the agent has gone; -1: nobody.
  int lifeline = -1;
  // Of an agent that `convoy run` starts. `listener` listens at `name` already; -1: none does.
  // `launcher`, a SOCK_SEQPACKET pair's end, is a lifeline whose other end is told what is still to
  // be written, and of a step that has been taken over until it is durable
  // (src/launch/agent_line.h); SIGTERM, which schedulers send to all processes of a job, then ends
  // nothing: ranks may still want to save.
  int listener = -1;
  int launcher = -1;
  // Ends by itself when nobody has been connected for so long and all is durable; 0: never.
  Nanos idle_exit{0};
  // Committed steps are read again so often, with so many bytes/s, on a thread of the lowest
  // priority; what is damaged is named in the log, and mended from memory if that still has it. 0:
  // never; no limit.
  Nanos scrub_every = std::chrono::hours(6);
  uint64_t scrub_bandwidth = uint64_t{32} << 20;
  std::function<void()> ready = {};  // called once it listens; may be empty
  ClusterListen listen = {};
};

// `convoy agent`: the process of a node that keeps its ranks' snapshots and carries them to the
// tiers, so that a trainer may die at any moment after a save.
//
// Serves ranks of one job, of this user only, one generation of workers after the other: the newest
// whole step of the generations before stays until the new one has a whole step of its own. One
// thread for messages, one for the disk. Returns on SIGTERM, the end of the lifeline or
// idleness, once the newest step that was staged is durable (a second SIGTERM: at once). Blocks
// until then. kAlreadyExists: somebody has the name.
Status run_agent(const AgentOptions& options);

}  // namespace convoy::ckpt
