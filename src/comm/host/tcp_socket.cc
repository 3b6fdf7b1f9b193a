// Which address of this machine others use, and how sockets are set up. Knows nothing of ranks.
#include "src/comm/host/tcp_socket.h"

#include <convoy/base/check.h>

#include <algorithm>
#include <arpa/inet.h>
#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstddef>
#include <cstdlib>
#include <cstring>
#include <ifaddrs.h>
#include <memory>
#include <net/if.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <string_view>
#include <sys/random.h>

namespace convoy::host {
namespace {

// How long a peer's machine may stay silent (no acknowledgement) before it counts as dead.
constexpr std::chrono::seconds kPeerSilence{10};
constexpr std::chrono::seconds kKeepaliveIdle{4};
constexpr int kKeepaliveProbes = 3;
// What was not acknowledged is sent again after so long at most, also on a link that was slow: else
// one that is cut for a moment stands still for seconds. Linux 6.15 and later; the name is newer
// than most headers.
constexpr std::chrono::milliseconds kRepeatedWithin{1000};
constexpr int kTcpRtoMaxMs = 44;
constexpr int kListenBacklog = 512;

struct SocketAddress {
  sockaddr_storage storage{};
  socklen_t length = 0;
  const sockaddr* get() const { return reinterpret_cast<const sockaddr*>(&storage); }
  sockaddr* get() { return reinterpret_cast<sockaddr*>(&storage); }
};

std::string numeric(const sockaddr* address, socklen_t length) {
  char host[NI_MAXHOST];
  const int error = ::getnameinfo(address, length, host, sizeof host, nullptr, 0, NI_NUMERICHOST);
  return error == 0 ? host : "";
}

bool is_loopback(const sockaddr* address) {
  if (address->sa_family == AF_INET) {
    const auto* in = reinterpret_cast<const sockaddr_in*>(address);
    return (ntohl(in->sin_addr.s_addr) >> 24) == 127;
  }
  return IN6_IS_ADDR_LOOPBACK(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

bool is_link_local(const sockaddr* address) {
  return address->sa_family == AF_INET6 &&
         IN6_IS_ADDR_LINKLOCAL(&reinterpret_cast<const sockaddr_in6*>(address)->sin6_addr);
}

Result<SocketAddress> resolve(const std::string& host, uint16_t port, int flags) {
  if (host.rfind('@', 0) == 0) {
    SocketAddress local;
    local.length = abstract_address(host.substr(1), reinterpret_cast<sockaddr_un*>(&local.storage));
    return local;
  }
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = flags | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(host.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return Status(Code::kInvalidArgument,
                  "the address '" + host + "' can't be resolved: " + ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> owner(found, &::freeaddrinfo);
  SocketAddress address;
  std::memcpy(&address.storage, found->ai_addr, found->ai_addrlen);
  address.length = found->ai_addrlen;
  return address;
}

// The first usable address of `interface`, or of any that is up and no loopback when it is empty;
// IPv4 before IPv6.
std::string interface_address(const std::string& interface) {
  ifaddrs* list = nullptr;
  if (::getifaddrs(&list) != 0) return "";
  const std::unique_ptr<ifaddrs, void (*)(ifaddrs*)> owner(list, &::freeifaddrs);
  for (const int family : {AF_INET, AF_INET6}) {
    for (const ifaddrs* i = list; i != nullptr; i = i->ifa_next) {
      if (i->ifa_addr == nullptr || i->ifa_addr->sa_family != family) continue;
      if ((i->ifa_flags & IFF_UP) == 0 || is_link_local(i->ifa_addr)) continue;
      if (interface.empty() ? is_loopback(i->ifa_addr) : interface != i->ifa_name) continue;
      return numeric(i->ifa_addr, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    }
  }
  return "";
}

// The source address that packets to `host` would carry; empty when unknown or a loopback. No
// packet is sent: connecting a UDP socket only looks the route up.
std::string route_source(const std::string& host) {
  auto target = resolve(host, 9, 0);
  if (!target.ok() || is_loopback(target->get())) return "";
  const UniqueFd fd(::socket(target->get()->sa_family, SOCK_DGRAM | SOCK_CLOEXEC, 0));
  if (!fd || ::connect(fd.get(), target->get(), target->length) != 0) return "";
  SocketAddress own;
  own.length = sizeof own.storage;
  if (::getsockname(fd.get(), own.get(), &own.length) != 0 || is_loopback(own.get())) return "";
  return numeric(own.get(), own.length);
}

std::string environment(const char* name) {
  const char* value = std::getenv(name);
  return value == nullptr ? "" : value;
}

Result<std::string> named_address(const std::string& name, const std::string& who_says) {
  auto found = resolve(name, 0, 0);
  if (!found.ok()) return found.status().with_context(who_says);
  return numeric(found->get(), found->length);
}

}  // namespace

std::string TcpAddress::to_string() const {
  if (is_local()) return host;
  const bool v6 = host.find(':') != std::string::npos;
  return (v6 ? "[" + host + "]" : host) + ":" + std::to_string(port);
}

Result<TcpAddress> TcpAddress::parse(const std::string& text) {
  const Status bad(Code::kInvalidArgument, "'" + text + "' is not of the form HOST:PORT");
  TcpAddress address;
  if (text.size() > 1 && text.front() == '@') {
    address.host = text;
    return address;
  }
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) return bad;
  address.host = text.substr(0, colon);
  if (address.host.front() == '[' && address.host.back() == ']') {
    address.host = address.host.substr(1, address.host.size() - 2);
  }
  const char* end = text.data() + text.size();
  const auto parsed = std::from_chars(text.data() + colon + 1, end, address.port);
  if (parsed.ec != std::errc() || parsed.ptr != end || address.host.empty()) return bad;
  return address;
}

Result<std::string> choose_address(const std::string& wanted) {
  if (!wanted.empty()) return named_address(wanted, "the node's address");
  if (const auto name = environment("CONVOY_ADDRESS"); !name.empty()) {
    return named_address(name, "CONVOY_ADDRESS");
  }
  if (const auto name = environment("CONVOY_INTERFACE"); !name.empty()) {
    const std::string found = interface_address(name);
    if (!found.empty()) return found;
    return Status(Code::kInvalidArgument,
                  "CONVOY_INTERFACE names '" + name +
                      "', but this machine has no such interface that is up and has an address "
                      "(see `ip address`)");
  }
  if (const auto master = environment("MASTER_ADDR"); !master.empty()) {
    if (const std::string found = route_source(master); !found.empty()) return found;
  }
  const std::string found = interface_address("");
  return found.empty() ? std::string("127.0.0.1") : found;
}

Result<UniqueFd> tcp_listen(const std::string& host, TcpAddress& address, uint16_t port) {
  CONVOY_ASSIGN_OR_RETURN(SocketAddress local, resolve(host, port, AI_NUMERICHOST | AI_PASSIVE));
  const int family = local.get()->sa_family;
  UniqueFd fd(::socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return errno_status("creating the TCP listener", errno);
  if (::bind(fd.get(), local.get(), local.length) != 0 || ::listen(fd.get(), kListenBacklog) != 0 ||
      ::getsockname(fd.get(), local.get(), &local.length) != 0) {
    return errno_status(
        "listening on address " + host + " (CONVOY_ADDRESS or CONVOY_INTERFACE choose another)",
        errno);
  }
  address.host = host;
  if (address.is_local()) return fd;
  address.port =
      ntohs(family == AF_INET ? reinterpret_cast<sockaddr_in*>(&local.storage)->sin_port
                              : reinterpret_cast<sockaddr_in6*>(&local.storage)->sin6_port);
  return fd;
}

Result<UniqueFd> tcp_start_connect(const TcpAddress& address) {
  CONVOY_ASSIGN_OR_RETURN(const SocketAddress remote,
                          resolve(address.host, address.port, AI_NUMERICHOST));
  UniqueFd fd(::socket(remote.get()->sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0));
  if (!fd) return errno_status("creating a TCP socket", errno);
  if (::connect(fd.get(), remote.get(), remote.length) != 0 && errno != EINPROGRESS) {
    // A unix socket tells at once that nobody listens, or that too many wait to be let in.
    const bool later = address.is_local() && (errno == ECONNREFUSED || errno == EAGAIN);
    if (later) return Status(Code::kUnavailable, std::strerror(errno));
    return errno_status("connecting to " + address.to_string(), errno);
  }
  return fd;
}

void tune_socket(int fd) {
  const auto set = [fd](int level, int option, int value) {
    ::setsockopt(fd, level, option, &value, sizeof value);
  };
  // On a unix socket these fail, and none is needed: it neither waits nor loses its peer.
  set(IPPROTO_TCP, TCP_NODELAY, 1);
  set(SOL_SOCKET, SO_KEEPALIVE, 1);
  set(IPPROTO_TCP, TCP_KEEPIDLE, static_cast<int>(kKeepaliveIdle.count()));
  set(IPPROTO_TCP, TCP_KEEPINTVL,
      static_cast<int>((kPeerSilence - kKeepaliveIdle).count()) / kKeepaliveProbes);
  set(IPPROTO_TCP, TCP_KEEPCNT, kKeepaliveProbes);
  set(IPPROTO_TCP, TCP_USER_TIMEOUT,
      static_cast<int>(std::chrono::milliseconds(kPeerSilence).count()));
  set(IPPROTO_TCP, kTcpRtoMaxMs, static_cast<int>(kRepeatedWithin.count()));
}

}  // namespace convoy::host
