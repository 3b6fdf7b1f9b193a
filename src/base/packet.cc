// SOCK_SEQPACKET: a message is a packet, whole or not at all, so nothing is framed here.
#include <convoy/base/packet.h>
#include <convoy/base/socket.h>

#include <cerrno>
#include <cstring>
#include <sys/socket.h>
#include <unistd.h>

namespace convoy {
namespace {

constexpr int kBacklog = 4096;

union Control {
  cmsghdr header;
  char bytes[CMSG_SPACE(sizeof(int))];
};

Result<UniqueFd> make_socket() {
  UniqueFd fd(::socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0));
  if (!fd) return errno_status("making a unix socket", errno);
  return fd;
}

}  // namespace

Result<UniqueFd> listen_packets(const std::string& name) {
  CONVOY_ASSIGN_OR_RETURN(UniqueFd fd, make_socket());
  sockaddr_un address{};
  const socklen_t size = abstract_address(name, &address);
  if (::bind(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    if (errno == EADDRINUSE) {
      return Status(Code::kAlreadyExists, "somebody listens at @" + name + " already");
    }
    return errno_status("binding @" + name, errno);
  }
  if (::listen(fd.get(), kBacklog) != 0) return errno_status("listening at @" + name, errno);
  return fd;
}

Result<UniqueFd> connect_packets(const std::string& name) {
  CONVOY_ASSIGN_OR_RETURN(UniqueFd fd, make_socket());
  sockaddr_un address{};
  const socklen_t size = abstract_address(name, &address);
  if (::connect(fd.get(), reinterpret_cast<sockaddr*>(&address), size) != 0) {
    return Status(Code::kUnavailable, "nobody answers at @" + name + ": " + std::strerror(errno));
  }
  if (!is_own_peer(fd.get())) {
    return Status(Code::kFailedPrecondition, "@" + name + " belongs to another user");
  }
  return fd;
}

bool is_own_peer(int socket) {
  ucred peer{};
  socklen_t size = sizeof peer;
  return ::getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 &&
         peer.uid == ::geteuid();
}

Status send_packet(int socket, const std::string& bytes, int fd) {
  if (bytes.size() > kPacketBytesMax) {
    return {Code::kResourceExhausted, "a message of " + std::to_string(bytes.size()) + " bytes"};
  }
  iovec part{const_cast<char*>(bytes.data()), bytes.size()};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  Control control{};
  if (fd >= 0) {
    message.msg_control = control.bytes;
    message.msg_controllen = sizeof control.bytes;
    cmsghdr* header = CMSG_FIRSTHDR(&message);
    header->cmsg_level = SOL_SOCKET;
    header->cmsg_type = SCM_RIGHTS;
    header->cmsg_len = CMSG_LEN(sizeof fd);
    std::memcpy(CMSG_DATA(header), &fd, sizeof fd);
  }
  while (::sendmsg(socket, &message, MSG_NOSIGNAL) < 0) {
    if (errno == EINTR) continue;
    return {Code::kUnavailable, std::string("the other end has gone: ") + std::strerror(errno)};
  }
  return ok_status();
}

Result<Packet> receive_packet(int socket) {
  Packet packet;
  packet.bytes.resize(kPacketBytesMax);
  iovec part{packet.bytes.data(), packet.bytes.size()};
  Control control{};
  msghdr message{};
  message.msg_iov = &part;
  message.msg_iovlen = 1;
  message.msg_control = control.bytes;
  message.msg_controllen = sizeof control.bytes;
  ssize_t got = 0;
  while ((got = ::recvmsg(socket, &message, MSG_CMSG_CLOEXEC)) < 0) {
    if (errno == EINTR) continue;
    if (errno != EAGAIN) return errno_status("receiving from the other end", errno);
    packet.nothing = true;
    return packet;
  }
  packet.ended = got == 0;
  packet.bytes.resize(static_cast<size_t>(got));
  for (cmsghdr* h = CMSG_FIRSTHDR(&message); h != nullptr; h = CMSG_NXTHDR(&message, h)) {
    if (h->cmsg_level != SOL_SOCKET || h->cmsg_type != SCM_RIGHTS) continue;
    int fd = -1;
    std::memcpy(&fd, CMSG_DATA(h), sizeof fd);
    packet.fd.reset(fd);
  }
  if ((message.msg_flags & MSG_TRUNC) != 0) {
    return Status(Code::kResourceExhausted, "a message above the limit of a packet");
  }
  return packet;
}

}  // namespace convoy
