// A peer whose process is stopped: its kernel still acknowledges, nothing ever answers. A file of
// its own, because the server's process must be forked before gRPC has threads here.
#include "tests/exit_rank.h"
#include <convoy/rpc/channel.h>
#include <convoy/rpc/server.h>

#include <catch2/catch.hpp>

#include <csignal>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::rpc {
namespace {

using namespace std::chrono_literals;

TEST_CASE("a peer that is frozen is noticed by keepalive, long before the call's deadline") {
  ConnectionOptions connection;
  connection.keepalive = 1s;
  connection.keepalive_timeout = 1s;
  int port_pipe[2] = {-1, -1};
  REQUIRE(::pipe(port_pipe) == 0);
  const pid_t pid = ::fork();
  if (pid == 0) {
    ServerOptions options;
    options.host = "127.0.0.1";
    options.connection = connection;
    std::vector<std::shared_ptr<Call>> kept;
    auto server =
        Server::start(options, {{"hello", [](const auto& call) { call->finish(Message{"yes"}); }},
                                {"never", [&](const auto& call) { kept.push_back(call); }}});
    const uint16_t port = server.ok() ? (*server)->port() : 0;
    [[maybe_unused]] const auto written = ::write(port_pipe[1], &port, sizeof port);
    for (;;) ::pause();
  }
  uint16_t port = 0;
  REQUIRE(::read(port_pipe[0], &port, sizeof port) == sizeof port);
  REQUIRE(port != 0);
  auto channel = Channel::create("127.0.0.1:" + std::to_string(port), connection).value();
  CHECK(channel->call("hello", {}, 60s).ok());
  ::kill(pid, SIGSTOP);
  const Status status = channel->call("never", {}, 600s).status();
  INFO(status.to_string());
  CHECK(status.code() == Code::kUnavailable);  // and not the deadline's ten minutes
  ::kill(pid, SIGKILL);
  ::waitpid(pid, nullptr, 0);
  ::close(port_pipe[0]);
  ::close(port_pipe[1]);
}

}  // namespace
}  // namespace convoy::rpc
