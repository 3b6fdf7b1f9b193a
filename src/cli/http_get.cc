#include "src/cli/http_get.h"

#include <convoy/base/fd.h>

#include <array>
#include <cerrno>
#include <cstdlib>
#include <memory>
#include <netdb.h>
#include <sys/socket.h>
#include <sys/time.h>

namespace convoy::cli {
namespace {

constexpr size_t kBodyBytesMax = size_t{64} << 20;
constexpr std::string_view kScheme = "http://";

struct Place {
  std::string host, port = "80";
};

Result<Place> read_url(const std::string& url) {
  const bool has_scheme = url.starts_with(kScheme);
  if (!has_scheme && url.find("://") != std::string::npos) {
    return Status(Code::kInvalidArgument, url + ": only http:// is read");
  }
  std::string rest = has_scheme ? url.substr(kScheme.size()) : url;
  rest = rest.substr(0, rest.find_first_of("/?#"));
  Place place;
  const size_t bracket = rest.find(']');
  const size_t colon = rest.find(':', bracket == std::string::npos ? 0 : bracket);
  place.host = rest.substr(0, colon);
  if (colon != std::string::npos) place.port = rest.substr(colon + 1);
  if (place.host.starts_with("[")) place.host = place.host.substr(1, place.host.size() - 2);
  if (place.host.empty()) return Status(Code::kInvalidArgument, url + ": http://HOST:PORT");
  return place;
}

Result<UniqueFd> connect_to(const Place& place, Nanos timeout) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(place.host.c_str(), place.port.c_str(), &hints, &found);
  if (error != 0) {
    return Status(Code::kUnavailable, place.host + ": " + ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  const auto us = std::chrono::duration_cast<std::chrono::microseconds>(timeout).count();
  const timeval limit{.tv_sec = us / 1000000, .tv_usec = us % 1000000};
  int last = 0;
  for (const addrinfo* at = found; at != nullptr; at = at->ai_next) {
    UniqueFd fd(::socket(at->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0));
    if (!fd) continue;
    ::setsockopt(fd.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);  // of connect(), too
    ::setsockopt(fd.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
    if (::connect(fd.get(), at->ai_addr, at->ai_addrlen) == 0) return fd;
    last = errno;
  }
  return Status(Code::kUnavailable, "nobody answers at " + place.host + ":" + place.port + ": " +
                                        errno_status("connecting", last).message());
}

}  // namespace

Result<std::string> http_get(const std::string& url, const std::string& path,
                             const std::string& token, Nanos timeout) {
  CONVOY_ASSIGN_OR_RETURN(const Place place, read_url(url));
  CONVOY_ASSIGN_OR_RETURN(const UniqueFd fd, connect_to(place, timeout));
  std::string request = "GET " + path + " HTTP/1.1\r\nHost: " + place.host + ":" + place.port +
                        "\r\nConnection: close\r\n";
  if (!token.empty()) request += "Authorization: Bearer " + token + "\r\n";
  request += "\r\n";
  if (::send(fd.get(), request.data(), request.size(), MSG_NOSIGNAL) !=
      static_cast<ssize_t>(request.size())) {
    return Status(Code::kUnavailable, url + ": the connection broke");
  }
  std::string answer;
  std::array<char, 65536> bytes{};
  for (;;) {
    const ssize_t got = ::recv(fd.get(), bytes.data(), bytes.size(), 0);
    if (got < 0 && errno == EINTR) continue;
    if (got < 0) return Status(Code::kUnavailable, url + " does not answer in time");
    if (got == 0) break;
    answer.append(bytes.data(), static_cast<size_t>(got));
    if (answer.size() > kBodyBytesMax) return Status(Code::kDataLoss, url + " does not end");
  }
  const size_t body = answer.find("\r\n\r\n");
  const size_t space = answer.find(' ');
  if (!answer.starts_with("HTTP/1.") || body == std::string::npos || space > body) {
    return Status(Code::kUnavailable, url + ": that is no answer of HTTP");
  }
  const int status = std::atoi(answer.c_str() + space);
  answer.erase(0, body + 4);
  if (status == 200) return answer;
  return Status(status == 404 ? Code::kNotFound : Code::kInvalidArgument,
                url + path + " answers " + std::to_string(status) + ": " + answer.substr(0, 200));
}

}  // namespace convoy::cli
