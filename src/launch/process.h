#pragma once

#include "src/launch/agent_line.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/process.h>
#include <convoy/base/status.h>

#include <functional>
#include <string>
#include <string_view>
#include <sys/types.h>
#include <vector>

// Processes: starting one rank, and leaving none behind.
namespace convoy::launch {

struct Child {
  pid_t pid = -1;
  UniqueFd pidfd;  // readable when it has ended
  UniqueFd out;    // the reading ends of its stdout and stderr, non-blocking
  UniqueFd err;
};

// The file that execvp would run for `program`, or kNotFound / kFailedPrecondition.
Result<std::string> find_program(const std::string& program);

struct SpawnOptions {
  bool outlives_us = false;  // else SIGKILL when the calling process dies
  std::vector<int> kept;     // descriptors that the program gets, under the same numbers
};
// Starts `path` in its own process group, with stdin /dev/null and default signals.
Result<Child> spawn(const std::string& path, const std::vector<std::string>& arguments,
                    const std::vector<std::string>& environment, const SpawnOptions& how = {});

// Makes this process the parent of descendants whose own parent ends.
Status become_subreaper();
// All processes below this one.
std::vector<pid_t> descendants();
// Reaps what has ended among this process's children, except `kept`.
void reap_adopted(const std::function<bool(pid_t)>& kept);
// Ends everything below this process but `spared` (0s don't count): SIGTERM, SIGKILL after
// `patience`. Returns how many were there. Blocks until all are gone (a process stuck in the kernel
// is given up after some seconds).
size_t end_descendants(Nanos patience, const std::vector<pid_t>& spared = {});

// Forks; the child runs `body` with the reading end of a pipe that reaches its end when this
// process is gone, and exits with the body's code. This process forwards SIGINT, SIGTERM and SIGHUP
// to it, ends whatever it leaves behind, and returns its code. If the child is killed, it drains
// the agent in its place.
Result<int> guard(AgentLine& agent, const std::function<int(UniqueFd lifeline)>& body);

}  // namespace convoy::launch
