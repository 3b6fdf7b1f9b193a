// The way to a peer: round-trip time, difference of wall clocks, bandwidth both ways, and how much
// TCP had to send again. A bad cable mostly shows in one direction, and first in what is sent
// again.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/connection.h"
#include "src/resilience/doctor/wall_clock.h"

#include <algorithm>
#include <array>
#include <cerrno>
#include <cmath>
#include <limits>
#include <linux/sockios.h>
#include <linux/tcp.h>
#include <netinet/in.h>
#include <sys/ioctl.h>
#include <sys/socket.h>

namespace convoy::resilience {
namespace {

constexpr int kPings = 20;
constexpr double kRoundTripMax = 0.01;  // seconds
constexpr double kOffsetMax = 0.1;
constexpr double kOffsetBroken = 60;  // certificates and file times are of no use then
constexpr double kResentMax = 0.01;   // of the segments
constexpr uint32_t kFrame = 64 << 10;
constexpr double kNs = 1e-9;

CheckResult with(const Peer& peer, CheckResult result) {
  result.subject = peer.text();
  return result;
}

CheckResult failed(const char* name, const Peer& peer, const Status& status) {
  return with(peer,
              judged(found(name, status.message()), false, Verdict::kFail, "a peer that answers",
                     "Check that `convoy doctor --listen " + std::to_string(peer.port) +
                         "` runs there, and that no firewall is between."));
}

struct PingTimes {
  double round_trip = std::numeric_limits<double>::infinity();
  double offset = 0;  // of the peer's wall clock to ours
};

// The fastest round trip says most about the wire, and bounds the error of the offset.
Result<PingTimes> ping(Connection& connection, Deadline deadline) {
  PingTimes best;
  for (int i = 0; i < kPings && (i == 0 || !deadline.passed()); ++i) {
    Header request{.kind = Kind::kPing};
    const int64_t sent = wall_clock_ns();
    const TimePoint begin = Clock::system().now();
    CONVOY_RETURN_IF_ERROR(connection.send(request, deadline));
    CONVOY_ASSIGN_OR_RETURN(const Header pong, connection.receive(deadline));
    const double whole = std::chrono::duration<double>(Clock::system().now() - begin).count();
    const int64_t back = wall_clock_ns();
    if (pong.kind != Kind::kPong) return Status(Code::kMismatch, "the peer sends no pong");
    // As doubles, because the peer may send any number.
    const double there = static_cast<double>(pong.second) - static_cast<double>(pong.first);
    const double round_trip = whole - std::clamp(there * kNs, 0.0, whole);
    if (round_trip >= best.round_trip) continue;
    best.round_trip = round_trip;
    // Differences first: as doubles, times since 1970 have steps of 256 ns.
    best.offset = 0.5 * kNs *
                  (static_cast<double>(static_cast<__int128>(pong.first) - sent) +
                   static_cast<double>(static_cast<__int128>(pong.second) - back));
  }
  return best;
}

CheckResult clock_offset(const Peer& peer, const PingTimes& times) {
  const double offset = std::abs(times.offset);
  CheckResult result = measured("clock.offset", times.offset, "s", Better::kNeither);
  result.found += " ± " + format_value(times.round_trip / 2, "s");
  return with(peer, judged(std::move(result), offset - times.round_trip / 2 <= kOffsetMax,
                           offset > kOffsetBroken ? Verdict::kFail : Verdict::kWarn,
                           "at most " + format_value(kOffsetMax, "s") + " apart",
                           "Have one time daemon with the same servers on all nodes; the node that "
                           "differs from most peers is the wrong one."));
}

// Sends until the time is up; what the peer's kernel has acknowledged by then counts, as the rest
// lies in buffers.
Result<double> send_rate(Connection& connection, Nanos time) {
  static const std::array made_up = payload<kFrame>();
  const TimePoint begin = Clock::system().now();
  const Deadline deadline(begin + time);
  const Header header{.kind = Kind::kData, .size = kFrame};
  uint64_t sent = 0;
  while (!deadline.passed()) {
    const Status status = connection.send(header, deadline);
    if (status.code() == Code::kDeadlineExceeded) break;
    CONVOY_RETURN_IF_ERROR(status);
    for (size_t done = 0; done < kFrame;) {
      CONVOY_ASSIGN_OR_RETURN(const size_t n,
                              connection.send_some(made_up.data() + done, kFrame - done, deadline));
      if (n == 0) break;
      done += n, sent += n;
    }
  }
  int queued = 0;
  ::ioctl(connection.fd(), SIOCOUTQ, &queued);
  const double seconds = std::chrono::duration<double>(Clock::system().now() - begin).count();
  return static_cast<double>(sent - std::min<uint64_t>(sent, static_cast<uint64_t>(queued))) /
         seconds;
}

Result<double> receive_rate(Connection& connection, Nanos time) {
  std::vector<char> buffer(256 << 10);
  const TimePoint begin = Clock::system().now();
  const Deadline deadline(begin + time);
  uint64_t received = 0;
  while (!deadline.passed()) {
    CONVOY_RETURN_IF_ERROR(connection.send({.kind = Kind::kFetch, .first = kFetchMax}, deadline));
    CONVOY_ASSIGN_OR_RETURN(const Header header, connection.receive(deadline));
    if (header.kind != Kind::kBytes || header.first != kFetchMax) {
      return Status(Code::kMismatch, "the peer does not send what it was asked for");
    }
    for (int64_t left = kFetchMax; left > 0 && !deadline.passed();) {
      CONVOY_ASSIGN_OR_RETURN(
          const size_t n,
          connection.receive_some(buffer.data(), std::min<int64_t>(left, buffer.size()), deadline));
      if (n == 0) break;
      left -= static_cast<int64_t>(n), received += n;
    }
  }
  const double seconds = std::chrono::duration<double>(Clock::system().now() - begin).count();
  return static_cast<double>(received) / seconds;
}

CheckResult resent(const Peer& peer, const Connection& connection) {
  tcp_info info{};
  socklen_t size = sizeof info;
  if (::getsockopt(connection.fd(), IPPROTO_TCP, TCP_INFO, &info, &size) != 0 ||
      info.tcpi_segs_out == 0) {
    return with(peer, skipped("network.sent_again", "the kernel does not tell"));
  }
  const double share = static_cast<double>(info.tcpi_total_retrans) / info.tcpi_segs_out;
  return with(peer, judged(measured("network.sent_again", share, "share", Better::kNeither),
                           share <= kResentMax, Verdict::kWarn,
                           "at most " + format_value(kResentMax, "share") + " of the segments",
                           "Segments are lost: look at the counters of adapter and switch port "
                           "(`ethtool -S`), and at the cable."));
}

CheckResult rate(const char* name, const Peer& peer, const Result<double>& rate, double least) {
  if (!rate.ok()) return failed(name, peer, rate.status());
  return with(peer,
              judged(measured(name, rate.value(), "B/s", Better::kHigher), rate.value() >= least,
                     Verdict::kWarn, "at least " + format_value(least, "B/s"),
                     "Check the link's speed (`ethtool IFACE`), other traffic, and whether "
                     "all peers see this or one; --need-bandwidth says what is enough."));
}

}  // namespace

Results probe_peer(const Peer& peer, Nanos time) {
  const Deadline deadline = Deadline::after(time);
  Result<Connection> connection = Connection::open(peer, deadline);
  if (!connection.ok()) return {failed("network.round_trip", peer, connection.status())};
  const Result<PingTimes> times = ping(connection.value(), deadline);
  if (!times.ok()) return {failed("network.round_trip", peer, times.status())};
  CheckResult round_trip =
      judged(measured("network.round_trip", times->round_trip, "s", Better::kLower),
             times->round_trip <= kRoundTripMax, Verdict::kWarn,
             "at most " + format_value(kRoundTripMax, "s"),
             "Check that both are in one data centre, and that the way is not overloaded.");
  return {with(peer, std::move(round_trip)), clock_offset(peer, *times)};
}

Results measure_peer(const DoctorOptions& options, const Peer& peer, Nanos time) {
  // A connection for each direction: what is left in the buffers of one must not delay the other.
  const Nanos patience = time + std::chrono::milliseconds(500);
  Result<Connection> sending = Connection::open(peer, Deadline::after(patience));
  if (!sending.ok()) return {failed("network.send", peer, sending.status())};
  Results results{
      rate("network.send", peer, send_rate(sending.value(), time / 2), options.bandwidth_min)};
  results.push_back(resent(peer, sending.value()));
  Result<Connection> receiving = Connection::open(peer, Deadline::after(patience));
  if (!receiving.ok()) {
    results.push_back(failed("network.receive", peer, receiving.status()));
    return results;
  }
  results.push_back(rate("network.receive", peer, receive_rate(receiving.value(), time / 2),
                         options.bandwidth_min));
  return results;
}

}  // namespace convoy::resilience
