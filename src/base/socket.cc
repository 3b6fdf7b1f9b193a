// Listening sockets and ports.
#include <convoy/base/check.h>
#include <convoy/base/socket.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <cstddef>
#include <cstring>
#include <netinet/in.h>
#include <random>
#include <string_view>
#include <sys/random.h>
#include <sys/socket.h>
#include <unistd.h>

namespace convoy {
namespace {

constexpr int kBacklog = 128;
constexpr uint16_t kFreePortFirst = 20000;  // Linux hands out 32768... to outgoing connections
constexpr uint16_t kFreePortLast = 32000;
constexpr int kFreePortTries = 100;

}  // namespace

Result<UniqueFd> listen_tcp(uint16_t port) {
  UniqueFd fd(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
  if (!fd) return errno_status("making a TCP socket", errno);
  const int on = 1;
  // Only skips the wait for old connections of a server that is gone; a live listener still counts.
  ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
  sockaddr_in address{};
  address.sin_family = AF_INET;
  address.sin_addr.s_addr = htonl(INADDR_ANY);
  address.sin_port = htons(port);
  if (::bind(fd.get(), reinterpret_cast<const sockaddr*>(&address), sizeof(address)) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return errno_status("listening on port " + std::to_string(port), errno);
  }
  return fd;
}

Result<uint16_t> bound_port(int socket) {
  sockaddr_in address{};
  socklen_t size = sizeof(address);
  if (::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size) != 0) {
    return errno_status("reading a socket's port", errno);
  }
  return ntohs(address.sin_port);
}

Result<uint16_t> free_port() {
  std::random_device random;
  std::uniform_int_distribution<int> pick(kFreePortFirst, kFreePortLast);
  for (int i = 0; i < kFreePortTries; ++i) {
    const auto port = static_cast<uint16_t>(pick(random));
    if (listen_tcp(port).ok()) return port;
  }
  return Status(Code::kUnavailable, "no free port among " + std::to_string(kFreePortTries) +
                                        " tried between " + std::to_string(kFreePortFirst) +
                                        " and " + std::to_string(kFreePortLast) + ".");
}

socklen_t abstract_address(const std::string& name, sockaddr_un* address) {
  std::memset(address, 0, sizeof *address);
  address->sun_family = AF_UNIX;
  const size_t bytes = std::min(name.size(), sizeof address->sun_path - 1);
  std::memcpy(address->sun_path + 1, name.data(), bytes);  // behind a zero
  return static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + bytes);
}

std::string random_hex() {
  unsigned char bytes[16];
  CONVOY_CHECK(getrandom(bytes, sizeof bytes, 0) == sizeof bytes, "no random bytes");
  std::string text;
  for (const unsigned char b : bytes) {
    constexpr std::string_view kDigits = "0123456789abcdef";
    text += kDigits[b >> 4];
    text += kDigits[b & 15];
  }
  return text;
}

std::string host_name() {
  std::array<char, 256> name{};
  ::gethostname(name.data(), name.size() - 1);
  return name.data();
}

}  // namespace convoy
