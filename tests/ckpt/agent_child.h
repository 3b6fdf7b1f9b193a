#pragma once

#include "tests/exit_rank.h"
#include <convoy/base/fault.h>
#include <convoy/base/packet.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/agent.h>

#include <catch2/catch.hpp>

#include <chrono>
#include <csignal>
#include <cstdio>
#include <fcntl.h>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

// Agents for tests, each in a process of its own that ends with the test's.
namespace convoy::ckpt {

// Looks again and again, for two minutes. Old steps go after the new one has been told to be
// durable.
template <class Condition>
bool eventually(Condition holds) {
  for (int i = 0; i < 12000; ++i) {
    if (holds()) return true;
    std::this_thread::sleep_for(std::chrono::milliseconds(10));
  }
  return false;
}

class AgentChild {
 public:
  // `body(name, lifeline)` is the child, and doesn't return. Waits until somebody listens at the
  // name.
  explicit AgentChild(const std::function<void(const std::string&, int)>& body)
      : name("convoy-test-" + random_hex()) {
    REQUIRE(::pipe2(lifeline, O_CLOEXEC) == 0);
    pid = ::fork();
    REQUIRE(pid >= 0);
    if (pid == 0) {
      ::close(lifeline[1]);
      body(name, lifeline[0]);
      ::_exit(127);
    }
    for (int i = 0; i < 3000 && !connect_packets(name).ok(); ++i) {
      std::this_thread::sleep_for(std::chrono::milliseconds(10));
    }
  }
  AgentChild(const AgentChild&) = delete;
  AgentChild& operator=(const AgentChild&) = delete;
  ~AgentChild() {
    if (pid > 0) end(SIGKILL);
    ::close(lifeline[0]);
    ::close(lifeline[1]);
  }
  // Returns waitpid's status.
  int end(int signal) {
    ::kill(pid, signal);
    return join();
  }
  int join() {
    int status = 0;
    ::waitpid(pid, &status, 0);
    pid = -1;
    return status;
  }
  const std::string name;
  pid_t pid = -1;
  int lifeline[2] = {-1, -1};  // the agent ends when this process does
};

// A child's body: run_agent() with `options` and `fault` (CONVOY_FAULT's grammar, armed there
// only). `exits` ends the process: exit_rank(), which looks for leaks, or _exit().
inline std::function<void(const std::string&, int)> agent_body(
    const std::string& fault = "", AgentOptions options = {},
    const std::function<void(int)>& exits = [](int code) { exit_rank(code); }) {
  return [fault, options, exits](const std::string& name, int lifeline) {
    fault::arm(fault);
    AgentOptions mine = options;
    mine.name = name;
    mine.lifeline = lifeline;
    const Status status = run_agent(mine);
    if (!status.ok()) std::fprintf(stderr, "agent: %s\n", status.to_string().c_str());
    exits(status.ok() ? 0 : 1);
  };
}

}  // namespace convoy::ckpt
