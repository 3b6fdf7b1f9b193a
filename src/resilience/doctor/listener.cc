// The listening side of the measurements between two nodes. Anybody may connect, so what a
// connection may cost is limited: a header's worth of memory, a payload that is made up while it is
// sent, some time. Who sends anything else than a request is disconnected.
#include "src/resilience/doctor/wall_clock.h"
#include "src/resilience/doctor/wire.h"
#include <convoy/base/event_loop.h>
#include <convoy/base/log.h>
#include <convoy/resilience/doctor.h>

#include <algorithm>
#include <arpa/inet.h>
#include <array>
#include <cerrno>
#include <map>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <span>
#include <sys/epoll.h>
#include <sys/socket.h>

namespace convoy::resilience {
namespace {

constexpr size_t kConnectionsMax = 128;
constexpr Nanos kIdleMax = std::chrono::seconds(10);
constexpr Nanos kLifeMax = std::chrono::seconds(60);
constexpr Nanos kSweepEvery = std::chrono::seconds(1);
constexpr Nanos kAcceptPause = std::chrono::milliseconds(100);  // when descriptors are used up
constexpr int kLoggedMax = 100;  // a port scanner must not fill the log
constexpr size_t kChunk = 256 << 10;

struct Connection {
  UniqueFd fd{};
  std::string peer{};
  TimePoint since{};
  TimePoint active{};  // when bytes last moved
  Header request{};
  size_t have = 0;       // bytes of `request`
  uint64_t discard = 0;  // payload bytes that are still to come
  Header answer{};
  size_t unsent = 0;  // bytes of `answer`, its last ones
  int64_t bulk = 0;   // payload bytes that are still to be sent behind it
  bool answers() const { return unsent > 0 || bulk > 0; }
};

std::string text_of(const sockaddr_in& address) {
  char text[INET_ADDRSTRLEN] = "?";
  ::inet_ntop(AF_INET, &address.sin_addr, text, sizeof text);
  return text + (":" + std::to_string(ntohs(address.sin_port)));
}

std::string hex(std::span<const char> bytes) {
  std::string text;
  for (const char byte : bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    text += kDigits[static_cast<unsigned char>(byte) >> 4];
    text += kDigits[static_cast<unsigned char>(byte) & 15];
  }
  return text;
}

class Server {
 public:
  Server(EventLoop& loop, const UniqueFd& listener)
      : loop_(loop), listener_(listener), incoming_(kChunk) {}

  Status start() {
    loop_.after(kSweepEvery, [this] { sweep(); });
    return loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept(); });
  }

 private:
  void accept() {
    sockaddr_in address{};
    socklen_t size = sizeof address;
    UniqueFd fd(::accept4(listener_.get(), reinterpret_cast<sockaddr*>(&address), &size,
                          SOCK_CLOEXEC | SOCK_NONBLOCK));
    if (!fd) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) pause();
      return;
    }
    if (connections_.size() >= kConnectionsMax) {
      log(text_of(address), "comes when there are " + std::to_string(kConnectionsMax) + " already");
      return;
    }
    const int on = 1, key = fd.get();
    ::setsockopt(key, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    const TimePoint now = Clock::system().now();
    connections_[key] = {
        .fd = std::move(fd), .peer = text_of(address), .since = now, .active = now};
    watch(connections_[key]);
  }

  // Without descriptors the listener would stay readable, and the loop busy.
  void pause() {
    loop_.unwatch(listener_.get());
    loop_.after(kAcceptPause, [this] {
      [[maybe_unused]] const Status status =
          loop_.watch(listener_.get(), EPOLLIN, [this](uint32_t) { accept(); });
    });
  }

  // Reads, or writes while there is an answer: never both.
  void watch(Connection& c) {
    loop_.unwatch(c.fd.get());
    const Status status = loop_.watch(c.fd.get(), c.answers() ? EPOLLOUT : EPOLLIN,
                                      [this, key = c.fd.get()](uint32_t) {
                                        Connection& connection = connections_.at(key);
                                        connection.answers() ? write(connection) : read(connection);
                                      });
    if (!status.ok()) drop(c, status.message());
  }

  void read(Connection& c) {
    const ssize_t n = ::recv(c.fd.get(), incoming_.data(), incoming_.size(), 0);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n <= 0) return drop(c, "");  // it has what it wanted
    c.active = Clock::system().now();
    const std::string problem = take(c, std::span(incoming_.data(), static_cast<size_t>(n)));
    if (!problem.empty()) return drop(c, problem);
    if (c.answers()) watch(c);
  }

  // What is wrong with what came, or "".
  static std::string take(Connection& c, std::span<const char> bytes) {
    while (!bytes.empty()) {
      if (c.answers()) return "does not wait for an answer";
      if (c.discard > 0) {
        const size_t n = std::min<uint64_t>(c.discard, bytes.size());
        c.discard -= n, bytes = bytes.subspan(n);
        continue;
      }
      const size_t n = std::min(sizeof(Header) - c.have, bytes.size());
      std::memcpy(reinterpret_cast<char*>(&c.request) + c.have, bytes.data(), n);
      c.have += n, bytes = bytes.subspan(n);
      if (c.have < sizeof(Header)) break;
      c.have = 0;
      if (!is_request(c.request)) {
        return "sends what is no request: " +
               hex({reinterpret_cast<const char*>(&c.request), sizeof(Header)});
      }
      accept_request(c);
    }
    return "";
  }

  static void accept_request(Connection& c) {
    if (c.request.kind == Kind::kData) {
      c.discard = c.request.size;
      return;
    }
    c.answer = {};
    c.unsent = sizeof(Header);
    if (c.request.kind == Kind::kPing) {
      c.answer.kind = Kind::kPong;
      c.answer.first = c.answer.second = wall_clock_ns();
    } else {
      c.answer.kind = Kind::kBytes;
      c.answer.first = c.bulk = c.request.first;
    }
  }

  void write(Connection& c) {
    static const std::array made_up = payload<kChunk>();
    const bool is_header = c.unsent > 0;
    if (is_header && c.unsent == sizeof(Header) && c.answer.kind == Kind::kPong) {
      c.answer.second = wall_clock_ns();
    }
    const char* from =
        is_header ? reinterpret_cast<const char*>(&c.answer + 1) - c.unsent : made_up.data();
    const size_t bytes = is_header ? c.unsent : std::min<int64_t>(c.bulk, kChunk);
    const ssize_t n = ::send(c.fd.get(), from, bytes, MSG_NOSIGNAL);
    if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
    if (n < 0) return drop(c, "");  // it has seen enough
    c.active = Clock::system().now();
    if (is_header) {
      c.unsent -= static_cast<size_t>(n);
    } else {
      c.bulk -= n;
    }
    if (!c.answers()) watch(c);
  }

  // `why`: for the log; "" if nothing is wrong.
  void drop(Connection& c, const std::string& why) {
    if (!why.empty()) log(c.peer, why);
    const int key = c.fd.get();
    loop_.unwatch(key);
    connections_.erase(key);
  }

  void sweep() {
    const TimePoint now = Clock::system().now();
    for (auto next = connections_.begin(); next != connections_.end();) {
      Connection& c = (next++)->second;
      if (now - c.active > kIdleMax) {
        drop(c, "is silent for " + format_value(kIdleMax.count() * 1e-9, "s"));
      } else if (now - c.since > kLifeMax) {
        drop(c, "stays too long");
      }
    }
    loop_.after(kSweepEvery, [this] { sweep(); });
  }

  void log(const std::string& peer, const std::string& what) {
    if (logged_++ > kLoggedMax) return;
    CONVOY_LOG(Warn) << peer << " " << what << "; disconnected"
                     << (logged_ > kLoggedMax ? ". Further ones are not told." : "");
  }

  EventLoop& loop_;
  const UniqueFd& listener_;
  std::map<int, Connection> connections_;
  std::vector<char> incoming_;
  int logged_ = 0;
};

}  // namespace

Status serve_peers(const UniqueFd& listener, const UniqueFd& stop) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<EventLoop> loop, EventLoop::create());
  Server server(*loop, listener);
  CONVOY_RETURN_IF_ERROR(server.start());
  CONVOY_RETURN_IF_ERROR(loop->watch(stop.get(), EPOLLIN, [&loop](uint32_t) { loop->stop(); }));
  return loop->run();
}

}  // namespace convoy::resilience
