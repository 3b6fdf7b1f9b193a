// What the kernel counts for each connection, added up for each peer: a connection's counters end
// with it, its peer's go on.
#include "trace/record/sockets.h"

#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>
#include <convoy/trace/sockets.h>

#include <algorithm>
#include <linux/tcp.h>
#include <map>
#include <mutex>
#include <netinet/in.h>
#include <optional>
#include <sys/socket.h>
#include <utility>

namespace convoy::trace {
namespace {

// Sums but for the round trip.
struct Counters {
  uint64_t sent = 0, received = 0, retransmits = 0, send_wait_ns = 0, peer_wait_ns = 0;
  uint64_t round_trip_ns = 0;
  bool operator==(const Counters&) const = default;
};

struct Socket {
  int fd = -1;
  int peer = -1;
  uint64_t cookie = 0;
  Counters last;
};

struct Link {
  Counters sum, told;
};

struct State {
  std::mutex mutex;
  uint64_t next = 1;  // guarded by mutex, as what follows
  std::map<uint64_t, Socket> sockets;
  std::map<int, Link> links;
};

State& state() {
  static auto* const the = new State;
  return *the;
}

uint64_t cookie_of(int fd) {
  uint64_t cookie = 0;
  socklen_t length = sizeof cookie;
  return ::getsockopt(fd, SOL_SOCKET, SO_COOKIE, &cookie, &length) == 0 ? cookie : 0;
}

bool is_tcp(int fd) {
  int protocol = 0;
  socklen_t length = sizeof protocol;
  return ::getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &length) == 0 &&
         protocol == IPPROTO_TCP;
}

std::optional<Counters> counters_of(const Socket& socket) {
  tcp_info info{};
  socklen_t length = sizeof info;
  if (cookie_of(socket.fd) != socket.cookie ||
      ::getsockopt(socket.fd, IPPROTO_TCP, TCP_INFO, &info, &length) != 0) {
    return std::nullopt;
  }
  Counters c;
  c.sent = info.tcpi_bytes_sent;
  c.received = info.tcpi_bytes_received;
  c.retransmits = info.tcpi_total_retrans;
  c.peer_wait_ns = info.tcpi_rwnd_limited * 1000;
  const uint64_t limited = info.tcpi_rwnd_limited + info.tcpi_sndbuf_limited;
  c.send_wait_ns = (info.tcpi_busy_time - std::min<uint64_t>(limited, info.tcpi_busy_time)) * 1000;
  c.round_trip_ns = uint64_t{info.tcpi_rtt} * 1000;
  return c;
}

void add_growth(uint64_t& sum, uint64_t before, uint64_t now) {
  sum += now - std::min(before, now);
}

void add(Socket& socket, Counters& sum) {
  const std::optional<Counters> now = counters_of(socket);
  if (!now) return;
  add_growth(sum.sent, socket.last.sent, now->sent);
  add_growth(sum.received, socket.last.received, now->received);
  add_growth(sum.retransmits, socket.last.retransmits, now->retransmits);
  add_growth(sum.send_wait_ns, socket.last.send_wait_ns, now->send_wait_ns);
  add_growth(sum.peer_wait_ns, socket.last.peer_wait_ns, now->peer_wait_ns);
  sum.round_trip_ns = std::max(sum.round_trip_ns, now->round_trip_ns);
  socket.last = *now;
}

void record_link(int peer, const Counters& c) {
  const std::pair<const char*, uint64_t> all[] = {
      {names::kSentBytes, c.sent},          {names::kReceivedBytes, c.received},
      {names::kRetransmits, c.retransmits}, {names::kRoundTrip, c.round_trip_ns},
      {names::kSendWait, c.send_wait_ns},   {names::kPeerWait, c.peer_wait_ns}};
  for (const auto& [name, value] : all) {
    record(Level::kCollectives, {.value = value,
                                 .extra = static_cast<uint32_t>(peer + 1),
                                 .name = intern(name),
                                 .kind = Kind::kCounter});
  }
}

}  // namespace

WatchedSocket::WatchedSocket(int fd, int peer) {
  if (peer < 0 || !is_tcp(fd)) return;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  number_ = s.next++;
  Socket& socket = s.sockets[number_];
  socket.fd = fd;
  socket.peer = peer;
  socket.cookie = cookie_of(fd);
}

WatchedSocket::~WatchedSocket() {
  if (number_ == 0) return;
  State& s = state();
  const std::lock_guard lock(s.mutex);
  const auto found = s.sockets.find(number_);
  if (found == s.sockets.end()) return;
  add(found->second, s.links[found->second.peer].sum);
  s.sockets.erase(found);
}

void sample_sockets() {
  State& s = state();
  const std::lock_guard lock(s.mutex);
  for (auto& [peer, link] : s.links) link.sum.round_trip_ns = 0;
  for (auto& [number, socket] : s.sockets) add(socket, s.links[socket.peer].sum);
  for (auto& [peer, link] : s.links) {
    if (link.sum == link.told) continue;
    link.told = link.sum;
    record_link(peer, link.sum);
  }
}

}  // namespace convoy::trace
