// Servers and channels of one process (and, where the peer is to freeze, of two) over loopback.
// Each promise is caused: an answer that never comes, a caller that goes, a peer that is stopped,
// a stranger without the token. Not checked: speed (the bench ckpt.coordinator measures calls).
#include "tests/temp_folder.h"
#include <convoy/rpc/channel.h>
#include <convoy/rpc/server.h>

#include <catch2/catch.hpp>

#include <condition_variable>
#include <csignal>
#include <cstdlib>
#include <cstring>
#include <mutex>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>

namespace convoy::rpc {
namespace {

using namespace std::chrono_literals;
constexpr auto kPatience = 60s;

std::vector<std::byte> pattern(size_t size) {
  std::vector<std::byte> bytes(size);
  for (size_t i = 0; i < size; ++i) bytes[i] = static_cast<std::byte>(i * 7 + i / 251);
  return bytes;
}

std::unique_ptr<Server> started(Handlers handlers, const ConnectionOptions& connection = {}) {
  ServerOptions options;
  options.host = "127.0.0.1";
  options.connection = connection;
  Result<std::unique_ptr<Server>> server = Server::start(options, std::move(handlers));
  INFO(server.status().to_string());
  REQUIRE(server.ok());
  return std::move(server).value();
}

std::unique_ptr<Channel> channel_to(uint16_t port, const ConnectionOptions& connection = {}) {
  return Channel::create("127.0.0.1:" + std::to_string(port), connection).value();
}

void echo(const std::shared_ptr<Call>& call) {
  const auto body = std::make_shared<std::vector<std::byte>>(call->request().body_bytes());
  call->request().copy_body(body->data());
  call->finish(Message{"re: " + call->request().header(), {*body}, body});
}

// Calls that a handler has put aside.
struct Parked {
  std::mutex mutex;
  std::condition_variable changed;
  std::vector<std::shared_ptr<Call>> calls;
  int cancelled = 0;
  void park(const std::shared_ptr<Call>& call) {
    call->on_cancel([this] {
      const std::lock_guard lock(mutex);
      ++cancelled;
      changed.notify_all();
    });
    const std::lock_guard lock(mutex);
    calls.push_back(call);
    changed.notify_all();
  }
  void wait(const std::function<bool()>& what) {
    std::unique_lock lock(mutex);
    REQUIRE(changed.wait_for(lock, kPatience, what));
  }
};

TEST_CASE("header and body arrive as they were sent, whatever their size") {
  const auto server = started({{"echo", echo}});
  const auto channel = channel_to(server->port());
  for (const size_t size : {size_t{0}, size_t{1}, size_t{70000}, size_t{9} << 20}) {
    const auto bytes = std::make_shared<std::vector<std::byte>>(pattern(size));
    const std::span<const std::byte> all(*bytes);
    const std::string header(size % 1000, 'h');
    const Result<Received> answer = channel->call(
        "echo", {header, {all.first(size / 3), all.subspan(size / 3)}, bytes}, kPatience);
    INFO(answer.status().to_string());
    REQUIRE(answer.ok());
    CHECK(answer->header() == "re: " + header);
    std::vector<std::byte> back(answer->body_bytes());
    answer->copy_body(back.data());
    CHECK(back == *bytes);
  }
}

TEST_CASE("a failure keeps its code and text") {
  std::atomic<int> code{1};
  const std::string text = "step 7: node 3 (größer) is missing\n" + std::string(3000, '%');
  const auto server = started({{"fail", [&](const std::shared_ptr<Call>& call) {
                                  call->finish(Status(static_cast<Code>(code.load()), text));
                                }}});
  const auto channel = channel_to(server->port());
  for (; code <= static_cast<int>(Code::kInternal); ++code) {
    const Status status = channel->call("fail", {}, kPatience).status();
    CHECK(static_cast<int>(status.code()) == code);
    CHECK(status.message() == text);
  }
  const Status unknown = channel->call("nothing", {}, kPatience).status();
  CHECK(unknown.code() == Code::kInvalidArgument);
  CHECK(unknown.message().find("nothing") != std::string::npos);
}

TEST_CASE("an answer that doesn't come ends at the deadline, and the server is told") {
  Parked parked;
  const auto server = started({{"park", [&](const auto& call) { parked.park(call); }}});
  const auto channel = channel_to(server->port());
  const Status late = channel->call("park", {}, 200ms).status();
  CHECK(late.code() == Code::kDeadlineExceeded);
  CHECK(late.message().find("park at 127.0.0.1") != std::string::npos);
  parked.wait([&] { return parked.cancelled == 1; });
  CHECK(parked.calls[0]->cancelled());
  parked.calls[0]->finish(Message{"too late"});  // does nothing
}

TEST_CASE("closing a channel or a server ends the calls under way") {
  Parked parked;
  const auto server = started({{"park", [&](const auto& call) { parked.park(call); }}});
  std::vector<Status> ended(2);
  const auto one = channel_to(server->port());
  const auto two = channel_to(server->port());
  one->call("park", {}, kPatience, [&](Result<Received> r) { ended[0] = r.status(); });
  two->call("park", {}, kPatience, [&](Result<Received> r) { ended[1] = r.status(); });
  parked.wait([&] { return parked.calls.size() == 2; });
  one->close();
  CHECK(ended[0].code() == Code::kAborted);
  CHECK(one->call("park", {}, kPatience).status().code() == Code::kAborted);
  server->stop();
  two->close();
  CHECK((ended[1].code() == Code::kAborted || ended[1].code() == Code::kUnavailable));
}

// What this caught: gRPC's thread freed its own queue, in one run of fifty (Impl::remove says why).
TEST_CASE("a process's only channel may go as soon as a call has its answer") {
  for (int round = 0; round < 500; ++round) {
    REQUIRE(channel_to(1)->call("echo", {"x"}, kPatience).status().code() == Code::kUnavailable);
  }
}

TEST_CASE("nobody there, a stranger, a port in use, a message that is too large") {
  ConnectionOptions connection;
  connection.token = "of this job";
  connection.message_bytes_max = 1 << 20;
  const auto server = started({{"echo", echo}}, connection);
  ServerOptions again;
  again.host = "127.0.0.1";
  again.port = server->port();
  CHECK(Server::start(again, {}).status().code() == Code::kAlreadyExists);
  CHECK(channel_to(server->port(), connection)->call("echo", {"x"}, kPatience).ok());
  ConnectionOptions other = connection;
  other.token = "of another";
  CHECK(channel_to(server->port(), other)->call("echo", {"x"}, kPatience).status().code() ==
        Code::kFailedPrecondition);
  CHECK(channel_to(server->port())->call("echo", {"x"}, kPatience).status().code() ==
        Code::kFailedPrecondition);
  CHECK(channel_to(server->port(), connection)
            ->call("echo", {std::string(2 << 20, 'x')}, kPatience)
            .status()
            .code() == Code::kResourceExhausted);
  CHECK(channel_to(1)->call("echo", {"x"}, kPatience).status().code() == Code::kUnavailable);
}

TEST_CASE("TLS: both sides prove themselves by files") {
  if (std::system("command -v openssl > /dev/null") != 0) {
    WARN("no openssl here: not checked");
    return;
  }
  TempFolder temp;
  const auto make = [&](const std::string& name) {
    const std::string command =
        "openssl req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=" + name +
        " -addext subjectAltName=IP:127.0.0.1 -keyout " + (temp / (name + ".key")) + " -out " +
        (temp / (name + ".pem")) + " 2> /dev/null";
    REQUIRE(std::system(command.c_str()) == 0);
  };
  make("node");
  make("stranger");
  ConnectionOptions connection;
  connection.tls = {temp / "node.pem", temp / "node.key", temp / "node.pem"};
  const auto server = started({{"echo", echo}}, connection);
  const Result<Received> answer =
      channel_to(server->port(), connection)->call("echo", {"x"}, kPatience);
  INFO(answer.status().to_string());
  CHECK(answer.ok());
  ConnectionOptions stranger = connection;
  stranger.tls = {temp / "stranger.pem", temp / "stranger.key", temp / "node.pem"};
  CHECK(!channel_to(server->port(), stranger)->call("echo", {"x"}, 5s).ok());
  CHECK(!channel_to(server->port())->call("echo", {"x"}, 5s).ok());
  connection.tls.key = temp / "missing";
  CHECK(Channel::create("127.0.0.1:1", connection).status().code() == Code::kInvalidArgument);
}

}  // namespace
}  // namespace convoy::rpc
