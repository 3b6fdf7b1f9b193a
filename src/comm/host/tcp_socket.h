#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/socket.h>
#include <convoy/base/status.h>

#include <cstdint>
#include <string>

namespace convoy::host {

// Where a rank listens: for other machines, or for its own (an abstract unix socket, which moves
// about twice the bytes a second that a loopback connection does).
struct TcpAddress {
  std::string host;   // numeric IPv4 or IPv6, or "@name": the unix socket
  uint16_t port = 0;  // of an IP address

  bool is_local() const { return !host.empty() && host.front() == '@'; }
  std::string to_string() const;  // "10.0.0.1:4711", "[fd00::1]:4711", "@name"
  static Result<TcpAddress> parse(const std::string& text);  // of to_string's form
};

// The address of this machine that peers on other machines should connect to, the first that is
// there: `wanted` (NodeOptions::address), CONVOY_ADDRESS, the first address of CONVOY_INTERFACE,
// the source address of the route to MASTER_ADDR unless it is a loopback, the first address of an
// interface that is up and no loopback, 127.0.0.1. Names are resolved. Fails only when what the
// caller or the environment asked for does not exist.
Result<std::string> choose_address(const std::string& wanted);

// A non-blocking listener on `port` of `host` (0: a free one), or on the unix socket "@name"; where
// it listens is put into `address`.
Result<UniqueFd> tcp_listen(const std::string& host, TcpAddress& address, uint16_t port = 0);
// A non-blocking socket that has begun to connect.
Result<UniqueFd> tcp_start_connect(const TcpAddress& address);
// No delay for small messages; a peer that vanishes without a word is given up after
// kPeerSilence.
void tune_socket(int fd);

}  // namespace convoy::host
