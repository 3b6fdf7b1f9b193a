// How workers that nobody gave an agent come to one: real processes that race, die and come again,
// and programs that are no agent. Who serves a name is asked of the kernel (the listener's pid).
// Not checked here: what an agent does (service_test.cc), `convoy run`'s agent.
#include "tests/exit_rank.h"
#include <convoy/base/packet.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/agent_process.h>

#include <catch2/catch.hpp>

#include <csignal>
#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;
constexpr int kPatienceMs = 60000;

// The process that listens at the name; 0: none.
pid_t agent_at(const std::string& name) {
  const Result<UniqueFd> socket = connect_packets(name);
  if (!socket.ok()) return 0;
  ucred peer{};
  socklen_t size = sizeof peer;
  REQUIRE(::getsockopt(socket->get(), SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0);
  return peer.pid;
}

UniqueFd watch(pid_t pid) {
  return UniqueFd(static_cast<int>(::syscall(SYS_pidfd_open, pid, 0)));
}

bool has_ended(const UniqueFd& pidfd, int patience_ms = kPatienceMs) {
  pollfd ended{pidfd.get(), POLLIN, 0};
  return ::poll(&ended, 1, patience_ms) == 1;
}

AgentPlace place_for(const std::string& job, Nanos idle_exit = 60s) {
  AgentPlace place;
  place.job = job;
  place.idle_exit = idle_exit;
  return place;
}

TEST_CASE("ranks that race start one agent, which outlives them and ends by itself") {
  const std::string job = "job " + random_hex();
  constexpr int kRanks = 4;
  std::string first;
  for (int rank = 0; rank < kRanks; ++rank) {
    int ends[2];
    REQUIRE(::pipe2(ends, O_CLOEXEC) == 0);
    const UniqueFd in(ends[0]);
    UniqueFd out(ends[1]);
    if (::fork() == 0) {
      // The others start while the first is at it, too.
      if (rank + 1 < kRanks && ::fork() == 0) (void)ensure_agent(place_for(job, 2s)), exit_rank(0);
      const auto name = ensure_agent(place_for(job, 2s));
      const std::string text = name.ok() ? *name : name.status().to_string();
      exit_rank(::write(out.get(), text.data(), text.size()) > 0 ? 0 : 1);
    }
    out.reset();
    char text[256];
    const ssize_t size = ::read(in.get(), text, sizeof text);
    REQUIRE(size > 0);
    if (first.empty()) first.assign(text, static_cast<size_t>(size));
    CHECK(std::string(text, static_cast<size_t>(size)) == first);
    int status = 0;
    CHECK(::wait(&status) > 0);
    CHECK(status == 0);
  }
  const pid_t agent = agent_at(first);
  REQUIRE(agent > 0);
  CHECK(::getsid(agent) == agent);
  CHECK(has_ended(watch(agent)));
  CHECK(agent_at(first) == 0);
}

TEST_CASE("one that was there is used, another job has its own, and SIGTERM ends it") {
  const auto mine = ensure_agent(place_for("job " + random_hex()));
  INFO(mine.status().to_string());
  REQUIRE(mine.ok());
  const pid_t agent = agent_at(*mine);
  AgentPlace given;
  given.agent = *mine;
  CHECK(ensure_agent(given).value() == *mine);
  CHECK(agent_at(*mine) == agent);
  const auto other = ensure_agent(place_for("job " + random_hex()));
  REQUIRE(other.ok());
  CHECK(*other != *mine);
  for (const std::string& name : {*mine, *other}) {
    const pid_t pid = agent_at(name);
    const UniqueFd pidfd = watch(pid);
    CHECK(::kill(pid, SIGTERM) == 0);
    CHECK(has_ended(pidfd));
  }
}

TEST_CASE("programs that are no agent, and agents that don't answer, are told of") {
  AgentPlace place = place_for("job " + random_hex());
  place.program = "/no/such/convoy";
  Status status = ensure_agent(place).status();
  CHECK(status.code() == Code::kNotFound);
  CHECK(status.message().find("/no/such/convoy") != std::string::npos);
  place.program = "/bin/false";
  status = ensure_agent(place).status();
  CHECK(status.code() == Code::kUnavailable);
  CHECK(status.message().find("/bin/false ended with code 1") != std::string::npos);
  place.program = "/bin/true";  // says that it listens, and doesn't
  place.timeout = 300ms;
  CHECK(ensure_agent(place).status().code() == Code::kDeadlineExceeded);

  AgentPlace mute;
  mute.agent = "convoy-test-" + random_hex();
  mute.timeout = 100ms;
  const auto listener = listen_packets(mute.agent);
  REQUIRE(listener.ok());
  status = ensure_agent(mute).status();
  CHECK(status.code() == Code::kDeadlineExceeded);
  CHECK(status.message().find(mute.agent + " does not answer") != std::string::npos);
}

}  // namespace
}  // namespace convoy::ckpt
