// Who is let in: the listener, the greeting and the secrets. A stranger's connection is read into a
// buffer of fixed size, gets a few seconds, and touches nothing else.
#include "src/comm/host/tcp_endpoint.h"

#include <convoy/base/log.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <random>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>
#include <utility>

namespace convoy::host {
namespace {

constexpr uint64_t kHelloMagic = 0x314b4e4c59564e43;   // "CNVYLNK1"
constexpr uint64_t kAnswerMagic = 0x31454d4f434c4557;  // "WELCOME1"
constexpr uint32_t kHelloVersion = 1;
constexpr size_t kGuestsMax = 256;
constexpr std::chrono::seconds kGuestPatience{5};
constexpr std::chrono::milliseconds kAcceptPause{100};
constexpr std::chrono::milliseconds kConnectRetry{50};

// The fields of a Hello as they lie on the wire.
struct WireHello {
  uint64_t magic;
  uint32_t version;
  uint32_t bytes;
  uint64_t token_high;
  uint64_t token_low;
  uint32_t from;
  uint32_t to;
  uint32_t stream;
  uint32_t reserved[5];
};
static_assert(sizeof(WireHello) == Hello::kBytes);
static_assert(std::endian::native == std::endian::little, "the wire format is little endian");

// Every connection is a descriptor; the usual soft limit of 1024 is soon reached.
void raise_descriptor_limit() {
  rlimit limit{};
  if (::getrlimit(RLIMIT_NOFILE, &limit) != 0 || limit.rlim_cur == limit.rlim_max) return;
  limit.rlim_cur = limit.rlim_max;
  ::setrlimit(RLIMIT_NOFILE, &limit);
}

// Waits until `fd` is ready for `events`.
Status wait_ready(int fd, short events, Deadline deadline, const char* what) {
  for (;;) {
    const Nanos left = std::min<Nanos>(deadline.left(), std::chrono::seconds(1));
    pollfd entry{fd, events, 0};
    const int ready = ::poll(&entry, 1, static_cast<int>(left / std::chrono::milliseconds(1)) + 1);
    if (ready > 0) return ok_status();
    if (ready < 0 && errno != EINTR) return errno_status(what, errno);
    if (deadline.passed()) {
      return Status(Code::kDeadlineExceeded, std::string(what) + " took too long");
    }
  }
}

// One attempt. kUnavailable: nobody listens (yet), worth another attempt.
Result<UniqueFd> try_connect(const TcpAddress& address, const Hello& hello, Deadline deadline) {
  CONVOY_ASSIGN_OR_RETURN(UniqueFd fd, tcp_start_connect(address));
  CONVOY_RETURN_IF_ERROR(wait_ready(fd.get(), POLLOUT, deadline, "connecting"));
  int error = 0;
  socklen_t length = sizeof error;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &length);
  if (error != 0) return Status(Code::kUnavailable, std::strerror(error));
  tune_socket(fd.get());
  char bytes[Hello::kBytes];
  hello.encode(bytes);
  if (::send(fd.get(), bytes, sizeof bytes, MSG_NOSIGNAL) != sizeof bytes) {
    return Status(Code::kUnavailable, "the greeting could not be sent");
  }
  uint64_t answer = 0;
  size_t got = 0;
  while (got < sizeof answer) {
    CONVOY_RETURN_IF_ERROR(wait_ready(fd.get(), POLLIN, deadline, "waiting for the answer"));
    const ssize_t n =
        ::recv(fd.get(), reinterpret_cast<char*>(&answer) + got, sizeof answer - got, 0);
    if (n == 0) return Status(Code::kUnavailable, "the connection was refused after the greeting");
    if (n < 0 && errno != EAGAIN && errno != EINTR) {
      return Status(Code::kUnavailable, std::strerror(errno));
    }
    if (n > 0) got += static_cast<size_t>(n);
  }
  if (answer != kAnswerMagic) {
    return Status(Code::kDataLoss, "something that is no Convoy rank answered");
  }
  return fd;
}

}  // namespace

void Hello::encode(char (&bytes)[kBytes]) const {
  const WireHello wire{kHelloMagic, kHelloVersion, kBytes, token_high, token_low, from,
                       to,          stream,        {}};
  std::memcpy(bytes, &wire, sizeof wire);
}

Result<Hello> Hello::decode(const char (&bytes)[kBytes]) {
  WireHello wire;
  std::memcpy(&wire, bytes, sizeof wire);
  if (wire.magic != kHelloMagic) return Status(Code::kDataLoss, "it is no Convoy greeting");
  if (wire.version != kHelloVersion || wire.bytes != kBytes) {
    return Status(Code::kMismatch, "it speaks version " + std::to_string(wire.version) +
                                       " of the link protocol, this process version " +
                                       std::to_string(kHelloVersion));
  }
  if (std::any_of(std::begin(wire.reserved), std::end(wire.reserved),
                  [](uint32_t word) { return word != 0; })) {
    return Status(Code::kDataLoss, "the greeting's reserved part is not zero");
  }
  Hello hello;
  hello.token_high = wire.token_high;
  hello.token_low = wire.token_low;
  hello.from = wire.from;
  hello.to = wire.to;
  hello.stream = wire.stream;
  return hello;
}

struct TcpEndpoint::Guest {
  UniqueFd fd;
  char bytes[Hello::kBytes];
  size_t got = 0;
};

TcpEndpoint::TcpEndpoint(std::string address) : wanted_(std::move(address)) {}

TcpEndpoint::~TcpEndpoint() {
  loop_.stop();
}

Status TcpEndpoint::start() {
  const std::lock_guard lock(start_mutex_);
  if (std::exchange(started_, true)) return start_status_;
  start_status_ = [this]() -> Status {
    raise_descriptor_limit();
    CONVOY_ASSIGN_OR_RETURN(const std::string host, choose_address(wanted_));
    CONVOY_ASSIGN_OR_RETURN(listener_, tcp_listen(host, address_));
    const std::string local = "@convoy-link-" + std::to_string(::getpid()) + "-" + random_hex();
    CONVOY_ASSIGN_OR_RETURN(local_listener_, tcp_listen(local, local_address_));
    CONVOY_RETURN_IF_ERROR(loop_.start());
    Status watched;
    loop_.run_now([&] {
      for (const int fd : {listener_.get(), local_listener_.get()}) {
        if (watched.ok()) {
          watched = loop_.add(fd, EPOLLIN, [this, fd](uint32_t) { accept_guests(fd); });
        }
      }
    });
    return watched;
  }();
  return start_status_;
}

Hello TcpEndpoint::expect(Accepted accepted) {
  std::random_device random;
  const auto word = [&random] {
    return (static_cast<uint64_t>(random()) << 32) | static_cast<uint64_t>(random());
  };
  Hello token;
  token.token_high = word();
  token.token_low = word();
  loop_.run_now([&] {
    expected_[{token.token_high, token.token_low}] =
        std::make_shared<Accepted>(std::move(accepted));
  });
  return token;
}

void TcpEndpoint::forget(const Hello& token) {
  loop_.run_now([&] { expected_.erase({token.token_high, token.token_low}); });
}

void TcpEndpoint::accept_guests(int listener) {
  for (;;) {
    UniqueFd fd(::accept4(listener, nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) {
      if (errno == EMFILE || errno == ENFILE || errno == ENOMEM || errno == ENOBUFS) {
        CONVOY_LOG(Warn) << "can't accept a connection: " << std::strerror(errno)
                         << "; raise the limit of open files (ulimit -n)";
        (void)loop_.modify(listener, 0);
        loop_.run_after(kAcceptPause, [this, listener] { (void)loop_.modify(listener, EPOLLIN); });
      }
      if (errno == EINTR || errno == ECONNABORTED) continue;
      return;
    }
    if (guests_.size() >= kGuestsMax) {
      CONVOY_LOG(Warn) << "dropped a connection: " << kGuestsMax << " others have not greeted yet";
      continue;
    }
    tune_socket(fd.get());
    auto guest = std::make_shared<Guest>();
    guest->fd = std::move(fd);
    guests_.insert(guest);
    const Status added =
        loop_.add(guest->fd.get(), EPOLLIN, [this, guest](uint32_t) { read_hello(guest); });
    if (!added.ok()) {
      drop(guest, added.message());
      continue;
    }
    loop_.run_after(kGuestPatience, [this, weak = std::weak_ptr<Guest>(guest)] {
      if (auto silent = weak.lock(); silent && guests_.count(silent) != 0) {
        drop(silent, "it did not greet in time");
      }
    });
  }
}

void TcpEndpoint::read_hello(const std::shared_ptr<Guest>& guest) {
  const ssize_t n =
      ::recv(guest->fd.get(), guest->bytes + guest->got, sizeof guest->bytes - guest->got, 0);
  if (n < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (n <= 0) return drop(guest, "it went away before it had greeted");
  guest->got += static_cast<size_t>(n);
  if (guest->got < sizeof guest->bytes) return;
  const auto hello = Hello::decode(guest->bytes);
  if (!hello.ok()) return drop(guest, hello.status().message());
  const auto found = expected_.find({hello->token_high, hello->token_low});
  if (found == expected_.end()) return drop(guest, "it does not know the secret of a group");
  if (::send(guest->fd.get(), &kAnswerMagic, sizeof kAnswerMagic, MSG_NOSIGNAL) !=
      sizeof kAnswerMagic) {
    return drop(guest, "the answer could not be sent");
  }
  loop_.remove(guest->fd.get());
  guests_.erase(guest);
  const std::shared_ptr<Accepted> accepted = found->second;
  (*accepted)(*hello, std::move(guest->fd));
}

void TcpEndpoint::drop(const std::shared_ptr<Guest>& guest, const std::string& why) {
  CONVOY_LOG(Warn) << "dropped a connection to " << address_.to_string() << ": " << why;
  loop_.remove(guest->fd.get());
  guest->fd.reset();
  guests_.erase(guest);
}

Result<UniqueFd> tcp_connect(const TcpAddress& address, const Hello& hello, Deadline deadline) {
  for (;;) {
    auto fd = try_connect(address, hello, deadline);
    if (fd.ok()) return fd;
    const Code code = fd.status().code();
    if (code != Code::kUnavailable || deadline.passed()) {
      return fd.status().with_context("connecting to " + address.to_string());
    }
    Clock::system().sleep_for(std::min<Nanos>(kConnectRetry, deadline.left()));
  }
}

}  // namespace convoy::host
