// Peers: one that answers, is slowed down (the kernel's own pacing), does not answer, refuses,
// answers nonsense; and a listening side that is fed garbage, floods and half-closed connections,
// and has to serve on. Listening sides are processes, as in a cluster. Not checked: real networks,
// and how exact the rates are.
#include "src/resilience/doctor/wire.h"
#include "tests/exit_rank.h"
#include "tests/resilience/doctor_run.h"
#include "tests/temp_folder.h"
#include <convoy/base/socket.h>

#include <catch2/catch.hpp>

#include <array>
#include <cstring>
#include <fcntl.h>
#include <fstream>
#include <iterator>
#include <netinet/in.h>
#include <poll.h>
#include <random>
#include <span>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

using namespace convoy;
using namespace convoy::resilience;

namespace {

constexpr Nanos kPatience = std::chrono::seconds(30);
constexpr Nanos kShort = std::chrono::milliseconds(100);

std::pair<UniqueFd, UniqueFd> make_pipe() {
  std::array<int, 2> ends{};
  REQUIRE(::pipe2(ends.data(), O_CLOEXEC) == 0);
  return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// A process that serves peers, or does `instead` on its listening socket.
class Listening {
 public:
  using Serve = std::function<void(const UniqueFd& listener)>;
  explicit Listening(uint32_t bytes_a_second = 0, const Serve& instead = {})
      : listener_(listen_tcp(0).value()) {
    if (bytes_a_second > 0) {  // accepted sockets inherit it
      REQUIRE(::setsockopt(listener_.get(), SOL_SOCKET, SO_MAX_PACING_RATE, &bytes_a_second,
                           sizeof bytes_a_second) == 0);
    }
    auto [stop, stopper] = make_pipe();
    child_ = ::fork();
    REQUIRE(child_ >= 0);
    if (child_ == 0) {
      stopper.reset();
      const int log = ::open((folder_ / "log").c_str(), O_CREAT | O_WRONLY | O_APPEND, 0600);
      ::dup2(log, STDERR_FILENO);
      if (instead) instead(listener_);
      exit_rank(serve_peers(listener_, stop).ok() ? 0 : 1);
    }
    stopper_ = std::move(stopper);
  }
  ~Listening() {
    stopper_.reset();
    int status = -1;
    ::waitpid(child_, &status, 0);
    CHECK((WIFEXITED(status) && WEXITSTATUS(status) == 0));
  }
  Listening(const Listening&) = delete;
  Listening& operator=(const Listening&) = delete;

  Peer peer() const { return {"127.0.0.1", bound_port(listener_.get()).value()}; }
  std::string log() const {
    std::ifstream file(folder_ / "log");
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
  }
  UniqueFd connect() const {
    UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(peer().port);
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    REQUIRE(::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), sizeof address) == 0);
    return fd;
  }

 private:
  TempFolder folder_;
  UniqueFd listener_;
  UniqueFd stopper_;
  pid_t child_ = -1;
};

bool answers(const Listening& listening) {
  return result_of(probe_peer(listening.peer(), kPatience), "network.round_trip").value > 0;
}

void send_all(const UniqueFd& fd, std::span<const char> bytes) {
  while (!bytes.empty()) {
    const ssize_t n = ::send(fd.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
    if (n <= 0) return;  // it has disconnected us
    bytes = bytes.subspan(static_cast<size_t>(n));
  }
}

std::span<const char> bytes_of(const Header& header) {
  return {reinterpret_cast<const char*>(&header), sizeof header};
}

// Reads until the other side has disconnected us.
bool is_disconnected(const UniqueFd& fd) {
  const Deadline deadline = Deadline::after(kPatience);
  std::array<char, 65536> buffer;
  while (!deadline.passed()) {
    pollfd one{.fd = fd.get(), .events = POLLIN, .revents = 0};
    if (::poll(&one, 1, 100) <= 0) continue;
    if (::recv(fd.get(), buffer.data(), buffer.size(), 0) <= 0) return true;
  }
  return false;
}

}  // namespace

TEST_CASE("a peer is measured both ways, and its clock compared") {
  const Listening listening;
  const Results probe = probe_peer(listening.peer(), kPatience);
  CHECK(result_of(probe, "network.round_trip").value > 0);
  CHECK(result_of(probe, "network.round_trip").subject == listening.peer().text());
  CHECK(result_of(probe, "clock.offset").verdict == Verdict::kOk);  // it is the same clock
  const Results rates = measure_peer({}, listening.peer(), kShort);
  CHECK(result_of(rates, "network.send").value > 0);
  CHECK(result_of(rates, "network.receive").value > 0);
  CHECK(listening.log().empty());
}

TEST_CASE("a slowed peer is a warning in the direction that is slow") {
  const Listening listening(1 << 20);
  const CheckResult receive = result_of(
      measure_peer({}, listening.peer(), std::chrono::milliseconds(600)), "network.receive");
  CHECK(receive.verdict == Verdict::kWarn);
  CHECK(receive.value > 0);
}

TEST_CASE("a peer that does not answer, and one that is not there, fail in time") {
  const UniqueFd silent = listen_tcp(0).value();  // the kernel connects, nobody accepts
  const Peer peer{"127.0.0.1", bound_port(silent.get()).value()};
  const CheckResult result = result_of(probe_peer(peer, kShort), "network.round_trip");
  CHECK(result.verdict == Verdict::kFail);
  CHECK(result.found == "no answer in time");
  CHECK(result.advice.find("firewall") != std::string::npos);
  CHECK(measure_peer({}, peer, kShort).back().verdict == Verdict::kFail);

  const Peer absent{"127.0.0.1", free_port().value()};
  CHECK(result_of(probe_peer(absent, kPatience), "network.round_trip").found.find("refused") !=
        std::string::npos);
  CHECK(
      result_of(probe_peer({"no-such-host.invalid", 1}, kPatience), "network.round_trip").verdict ==
      Verdict::kFail);
}

TEST_CASE("a peer that answers nonsense fails, and nothing else happens") {
  for (int seed = 0; seed < 40; ++seed) {
    const Listening listening(0, [seed](const UniqueFd& listener) {
      std::mt19937 random(seed);
      for (int i = 0; i < 3; ++i) {  // the connections that are made below
        const UniqueFd fd(::accept(listener.get(), nullptr, nullptr));
        std::array<char, 256> answer;
        for (char& byte : answer) byte = static_cast<char>(random());
        Header header{.kind = static_cast<Kind>(random() % 7)};
        header.first = static_cast<int64_t>(random()) << 32;
        header.second = -header.first;
        if (seed % 2 == 0) std::memcpy(answer.data(), &header, sizeof header);
        std::array<char, 4096> request;
        [[maybe_unused]] const auto n = ::recv(fd.get(), request.data(), request.size(), 0);
        send_all(fd, std::span(answer).first(random() % answer.size()));
      }
      exit_rank(0);
    });
    INFO("seed " << seed);
    CHECK(result_of(probe_peer(listening.peer(), kPatience), "network.round_trip").verdict ==
          Verdict::kFail);
    const Results rates = measure_peer({}, listening.peer(), kShort);
    CHECK(result_of(rates, "network.receive").verdict == Verdict::kFail);
  }
}

TEST_CASE("garbage is dropped and logged") {
  const Listening listening;
  const UniqueFd fd = listening.connect();
  const std::string text = "GET / HTTP/1.1\r\nHost: node1:29900\r\nAccept: */*\r\n\r\n";
  send_all(fd, text);
  CHECK(is_disconnected(fd));
  CHECK(listening.log().find("sends what is no request: 474554") != std::string::npos);
  CHECK(answers(listening));
}

TEST_CASE("requests that break a bound are dropped") {
  const Listening listening;
  Header request;
  SECTION("too large a payload") {
    request.kind = Kind::kData, request.size = kDataMax + 1;
  }
  SECTION("too much asked for") {
    request.kind = Kind::kFetch, request.first = kFetchMax + 1;
  }
  SECTION("a negative amount") {
    request.kind = Kind::kFetch, request.first = -1;
  }
  SECTION("an answer") {
    request.kind = Kind::kPong;
  }
  SECTION("an unknown kind") {
    request.kind = static_cast<Kind>(77);
  }
  SECTION("a ping with a payload") {
    request.kind = Kind::kPing, request.size = 5;
  }
  const UniqueFd fd = listening.connect();
  send_all(fd, bytes_of(request));
  CHECK(is_disconnected(fd));
  CHECK(answers(listening));
}

TEST_CASE("who does not wait for an answer is dropped") {
  const Listening listening;
  const UniqueFd fd = listening.connect();
  const std::array<Header, 2> both{Header{.kind = Kind::kFetch, .first = kFetchMax},
                                   Header{.kind = Kind::kPing}};
  send_all(fd, {reinterpret_cast<const char*>(both.data()), sizeof both});
  CHECK(is_disconnected(fd));
  CHECK(listening.log().find("does not wait") != std::string::npos);
}

TEST_CASE("random bytes and damaged requests: the listening side serves on") {
  const Listening listening;
  std::mt19937 random(7);
  for (int i = 0; i < 400; ++i) {
    const UniqueFd fd = listening.connect();
    std::vector<char> bytes(random() % 600);
    for (char& byte : bytes) byte = static_cast<char>(random());
    if (i % 2 == 0) {  // a request with damage, and what it announces behind it
      const std::array kinds{Kind::kPing, Kind::kData, Kind::kFetch};
      Header header{.kind = kinds[random() % 3]};
      header.size = header.kind == Kind::kData ? random() % 600 : 0;
      header.first = 1 + random() % 5000;
      std::array<char, sizeof header> damaged;
      std::memcpy(damaged.data(), &header, sizeof header);
      if (i % 4 == 0) damaged[random() % sizeof header] ^= static_cast<char>(1 + random() % 255);
      bytes.insert(bytes.begin(), damaged.begin(), damaged.end());
    }
    for (size_t sent = 0; sent < bytes.size();) {  // in pieces
      const size_t n = std::min<size_t>(1 + random() % 200, bytes.size() - sent);
      send_all(fd, std::span(bytes).subspan(sent, n));
      sent += n;
    }
    if (i % 3 == 0) ::shutdown(fd.get(), SHUT_WR);
    if (i % 50 == 0) CHECK(answers(listening));
  }
  CHECK(answers(listening));
}

TEST_CASE("a flood of connections leaves room again when they are gone") {
  const Listening listening;
  {
    std::vector<UniqueFd> flood;
    for (int i = 0; i < 200; ++i) flood.push_back(listening.connect());
    for (const UniqueFd& fd : flood)
      send_all(fd, bytes_of({.kind = Kind::kFetch, .first = 1 << 20}));
  }
  CHECK(answers(listening));
}
