#pragma once

#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <cstddef>
#include <string>

// Packets over a unix socket of this machine, each with at most one descriptor.
namespace convoy {

inline constexpr size_t kPacketBytesMax = size_t{64} << 10;

// A listener at the abstract name; kAlreadyExists if somebody listens there.
Result<UniqueFd> listen_packets(const std::string& name);
// kUnavailable if nobody listens there, kFailedPrecondition if it is another user.
Result<UniqueFd> connect_packets(const std::string& name);
// Whether the other end belongs to this user.
bool is_own_peer(int socket);

struct Packet {
  std::string bytes;
  UniqueFd fd;
  bool ended = false;    // the other end has closed
  bool nothing = false;  // on a socket that doesn't block: there is none now
};
// Blocks (on a blocking socket). kUnavailable when the other end has gone, kResourceExhausted above
// kPacketBytesMax.
Status send_packet(int socket, const std::string& bytes, int fd = -1);
Result<Packet> receive_packet(int socket);

}  // namespace convoy
