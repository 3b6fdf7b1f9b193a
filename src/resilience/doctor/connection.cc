// A non-blocking socket and poll(): sockets' own timeouts hold for a call, not until a moment.
#include "src/resilience/doctor/connection.h"

#include <algorithm>
#include <cerrno>
#include <memory>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>

namespace convoy::resilience {
namespace {

Status late() {
  return {Code::kDeadlineExceeded, "no answer in time"};
}

// Until `events` or an error hold for the descriptor, or the deadline has passed.
Status wait_for(int fd, int16_t events, Deadline deadline) {
  while (true) {
    const int64_t ms = std::chrono::ceil<std::chrono::milliseconds>(deadline.left()).count();
    pollfd one{.fd = fd, .events = events, .revents = 0};
    const int ready = ::poll(&one, 1, static_cast<int>(std::min<int64_t>(ms, 60'000)));
    if (ready > 0) return ok_status();
    if (ready < 0 && errno != EINTR) return errno_status("waiting for the peer", errno);
    if (deadline.passed()) return late();
  }
}

Result<UniqueFd> connect_to(const addrinfo& address, Deadline deadline) {
  UniqueFd fd(::socket(address.ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  if (!fd) return errno_status("making a socket", errno);
  const int on = 1;
  ::setsockopt(fd.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
  if (::connect(fd.get(), address.ai_addr, address.ai_addrlen) == 0) return fd;
  if (errno != EINPROGRESS) return errno_status("connecting", errno);
  CONVOY_RETURN_IF_ERROR(wait_for(fd.get(), POLLOUT, deadline));
  int error = 0;
  socklen_t size = sizeof error;
  ::getsockopt(fd.get(), SOL_SOCKET, SO_ERROR, &error, &size);
  if (error != 0) return errno_status("connecting", error);
  return fd;
}

}  // namespace

Result<Connection> Connection::open(const Peer& peer, Deadline deadline) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const std::string port = std::to_string(peer.port);
  // May block for long on a dead name server; then the check's own deadline ends it.
  const int error = ::getaddrinfo(peer.host.c_str(), port.c_str(), &hints, &found);
  if (error != 0) return Status(Code::kUnavailable, ::gai_strerror(error));
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> addresses(found, &::freeaddrinfo);
  Status last(Code::kUnavailable, "no address");
  for (const addrinfo* each = found; each != nullptr; each = each->ai_next) {
    Result<UniqueFd> fd = connect_to(*each, deadline);
    if (fd.ok()) return Connection(std::move(fd).value());
    last = fd.status();
  }
  return last;
}

Result<size_t> Connection::send_some(const char* from, size_t bytes, Deadline deadline) {
  while (true) {
    const ssize_t n = ::send(fd_.get(), from, bytes, MSG_NOSIGNAL);
    if (n >= 0) return static_cast<size_t>(n);
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return errno_status("sending", errno);
    const Status status = wait_for(fd_.get(), POLLOUT, deadline);
    if (status.code() == Code::kDeadlineExceeded) return size_t{0};
    CONVOY_RETURN_IF_ERROR(status);
  }
}

Result<size_t> Connection::receive_some(char* to, size_t bytes, Deadline deadline) {
  while (true) {
    const ssize_t n = ::recv(fd_.get(), to, bytes, 0);
    if (n > 0) return static_cast<size_t>(n);
    if (n == 0) return Status(Code::kUnavailable, "the peer has closed the connection");
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return errno_status("receiving", errno);
    const Status status = wait_for(fd_.get(), POLLIN, deadline);
    if (status.code() == Code::kDeadlineExceeded) return size_t{0};
    CONVOY_RETURN_IF_ERROR(status);
  }
}

Status Connection::send(const Header& header, Deadline deadline) {
  const char* from = reinterpret_cast<const char*>(&header);
  for (size_t sent = 0; sent < sizeof header;) {
    CONVOY_ASSIGN_OR_RETURN(const size_t n, send_some(from + sent, sizeof header - sent, deadline));
    if (n == 0) return late();
    sent += n;
  }
  return ok_status();
}

Result<Header> Connection::receive(Deadline deadline) {
  Header header;
  char* to = reinterpret_cast<char*>(&header);
  for (size_t have = 0; have < sizeof header;) {
    CONVOY_ASSIGN_OR_RETURN(const size_t n,
                            receive_some(to + have, sizeof header - have, deadline));
    if (n == 0) return late();
    have += n;
  }
  if (header.magic != Header{}.magic) {
    return Status(Code::kMismatch, "something else than `convoy doctor --listen` answers");
  }
  return header;
}

}  // namespace convoy::resilience
