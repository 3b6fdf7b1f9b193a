#include "src/http/server.h"

#include <convoy/base/event_loop.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <netdb.h>
#include <string_view>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <thread>
#include <unistd.h>
#include <utility>

namespace convoy::http {
namespace {

constexpr size_t kHeadBytesMax = 8192;
constexpr auto kHeadTime = std::chrono::seconds(3);
constexpr auto kSendTime = std::chrono::seconds(20);  // for all of an answer
constexpr int kBacklog = 64;

struct Request {
  std::string method, path;
  std::map<std::string, std::string> query;
  std::string host, authorization;
};

// The part before `separator`, which is taken off `rest` with it.
std::string_view next_part(std::string_view& rest, std::string_view separator) {
  const size_t at = rest.find(separator);
  const std::string_view part = rest.substr(0, at);
  rest = at == std::string_view::npos ? std::string_view() : rest.substr(at + separator.size());
  return part;
}

std::string lower(std::string_view text) {
  std::string out(text);
  std::ranges::transform(out, out.begin(), [](unsigned char c) { return std::tolower(c); });
  return out;
}

std::string_view trimmed(std::string_view text) {
  while (!text.empty() && (text.front() == ' ' || text.front() == '\t')) text.remove_prefix(1);
  while (!text.empty() && (text.back() == ' ' || text.back() == '\t')) text.remove_suffix(1);
  return text;
}

// Of a head up to its empty line. False: that is no HTTP.
bool read_request(std::string_view head, Request& request) {
  std::string_view line = next_part(head, "\r\n");
  request.method = next_part(line, " ");
  std::string_view target = next_part(line, " ");
  if (!line.starts_with("HTTP/1.") || !target.starts_with("/")) return false;
  request.path = next_part(target, "?");
  while (!target.empty()) {
    std::string_view one = next_part(target, "&");
    const std::string name(next_part(one, "="));
    request.query.emplace(name, one);
  }
  while (!head.empty()) {
    std::string_view value = next_part(head, "\r\n");
    const std::string name = lower(next_part(value, ":"));
    if (name == "host") request.host = trimmed(value);
    if (name == "authorization") request.authorization = trimmed(value);
  }
  return true;
}

// Takes as long for any text of the right length.
bool same(std::string_view a, std::string_view b) {
  unsigned differ = a.size() == b.size() ? 0 : 1;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    differ |= static_cast<unsigned char>(a[i]) ^ static_cast<unsigned char>(b[i]);
  }
  return differ == 0;
}

bool is_loopback(const std::string& address) {
  return address.starts_with("127.") || address == "localhost" || address == "::1";
}

// Another site's page can make a browser ask this server under a name of its own, but not under an
// address or localhost.
bool is_own_name(const std::string& host) {
  const std::string name = host.substr(0, host.starts_with("[") ? host.find(']') : host.find(':'));
  return name == "localhost" || name.starts_with("[") ||
         name.find_first_not_of("0123456789.") == std::string::npos;
}

const char* reason(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 400:
      return "Bad Request";
    case 401:
      return "Unauthorized";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    case 421:
      return "Misdirected Request";
    default:
      return "Error";
  }
}

std::string response(const Answer& answer, bool with_body) {
  std::string out = "HTTP/1.1 " + std::to_string(answer.status) + " " + reason(answer.status) +
                    "\r\nContent-Type: " + answer.type +
                    "\r\nContent-Length: " + std::to_string(answer.body.size()) +
                    "\r\nConnection: close\r\nCache-Control: no-store"
                    "\r\nX-Content-Type-Options: nosniff\r\nReferrer-Policy: no-referrer"
                    "\r\nContent-Security-Policy: default-src 'none'; script-src 'self'; "
                    "style-src 'self'; connect-src 'self'; img-src 'self' data:; "
                    "frame-ancestors 'none'; base-uri 'none'; form-action 'none'\r\n";
  if (answer.status == 405) out += "Allow: GET, HEAD\r\n";
  if (answer.status == 401) out += "WWW-Authenticate: Bearer\r\n";
  out += "\r\n";
  if (with_body) out += answer.body;
  return out;
}

Answer refusal(int status, const char* text) {
  return {.status = status, .type = "text/plain; charset=utf-8", .body = text, .is_public = true};
}

Answer answer_to(const Request& request, const ServerOptions& options, const Handler& handler) {
  if (request.method != "GET" && request.method != "HEAD") {
    return refusal(405, "This page can only be read.\n");
  }
  if (options.token.empty() && !options.is_public && !is_own_name(request.host)) {
    return refusal(421, "Without a token this page answers under localhost or an address only.\n");
  }
  Answer answer = handler(request.path, request.query);
  if (!answer.is_public && !options.token.empty() &&
      !same(request.authorization, "Bearer " + options.token)) {
    return refusal(401, "This needs the page's token: Authorization: Bearer TOKEN\n");
  }
  return answer;
}

Result<UniqueFd> listen_at(const std::string& address, uint16_t port) {
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE | AI_NUMERICSERV;
  addrinfo* found = nullptr;
  const int error = ::getaddrinfo(address.c_str(), std::to_string(port).c_str(), &hints, &found);
  if (error != 0) {
    return Status(Code::kInvalidArgument,
                  "the page can't listen at " + address + ": " + ::gai_strerror(error));
  }
  const std::unique_ptr<addrinfo, decltype(&::freeaddrinfo)> owner(found, &::freeaddrinfo);
  UniqueFd fd(::socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0));
  const int yes = 1;
  if (!fd || ::setsockopt(fd.get(), SOL_SOCKET, SO_REUSEADDR, &yes, sizeof yes) != 0 ||
      ::bind(fd.get(), found->ai_addr, found->ai_addrlen) != 0 ||
      ::listen(fd.get(), kBacklog) != 0) {
    return errno_status("listening at " + address + ":" + std::to_string(port) + " for the page",
                        errno);
  }
  return fd;
}

uint16_t port_of(int socket) {
  sockaddr_storage address{};
  socklen_t size = sizeof address;
  std::array<char, 16> port{};
  ::getsockname(socket, reinterpret_cast<sockaddr*>(&address), &size);
  ::getnameinfo(reinterpret_cast<sockaddr*>(&address), size, nullptr, 0, port.data(), port.size(),
                NI_NUMERICSERV);
  return static_cast<uint16_t>(std::atoi(port.data()));
}

}  // namespace

struct Server::Impl {
  struct Connection {
    UniqueFd fd;
    std::string in, out;
    size_t sent = 0;
    bool answers = false;
    EventLoop::TimerId timer;
  };

  void accept_all();
  void ready(int fd, uint32_t events);
  void read(Connection& c);
  void write(Connection& c);
  void set_deadline(Connection& c, Nanos time);
  void close(int fd);

  ServerOptions options;
  Handler handler;
  std::unique_ptr<EventLoop> loop;
  UniqueFd listener, wake;
  std::map<int, Connection> connections;
  std::thread thread;
};

void Server::Impl::close(int fd) {
  const auto at = connections.find(fd);
  if (at == connections.end()) return;
  loop->cancel(at->second.timer);
  loop->unwatch(fd);
  connections.erase(at);
}

void Server::Impl::set_deadline(Connection& c, Nanos time) {
  loop->cancel(c.timer);
  c.timer = loop->after(time, [this, fd = c.fd.get()] { close(fd); });
}

void Server::Impl::accept_all() {
  for (;;) {
    UniqueFd fd(::accept4(listener.get(), nullptr, nullptr, SOCK_NONBLOCK | SOCK_CLOEXEC));
    if (!fd) return;
    if (connections.size() >= options.connections_max) {
      // Who has said nothing for longest makes room; if all are being answered, nobody does.
      const auto idle = std::ranges::min_element(connections, {}, [](const auto& one) {
        return std::pair(one.second.answers, one.second.timer);
      });
      if (idle->second.answers) continue;
      close(idle->first);
    }
    const int number = fd.get();
    Connection& c = connections[number];
    c.fd = std::move(fd);
    set_deadline(c, kHeadTime);
    const Status watched =
        loop->watch(number, EPOLLIN, [this, number](uint32_t events) { ready(number, events); });
    if (!watched.ok()) close(number);
  }
}

void Server::Impl::ready(int fd, uint32_t events) {
  Connection& c = connections.at(fd);
  if ((events & (EPOLLERR | EPOLLHUP)) != 0) return close(fd);
  if (c.answers) {
    write(c);
  } else {
    read(c);
  }
}

void Server::Impl::read(Connection& c) {
  std::array<char, kHeadBytesMax> bytes{};
  const ssize_t got = ::recv(c.fd.get(), bytes.data(), bytes.size(), 0);
  if (got < 0 && (errno == EAGAIN || errno == EINTR)) return;
  if (got <= 0) return close(c.fd.get());
  c.in.append(bytes.data(), static_cast<size_t>(got));
  const size_t end = c.in.find("\r\n\r\n");
  Request request;
  Answer answer;
  if (end == std::string::npos) {
    if (c.in.size() < kHeadBytesMax) return;
    answer = refusal(400, "The request is too large.\n");
  } else if (!read_request(std::string_view(c.in).substr(0, end + 2), request)) {
    answer = refusal(400, "That is no HTTP request.\n");
  } else {
    answer = answer_to(request, options, handler);
  }
  c.out = response(answer, request.method != "HEAD");
  c.answers = true;
  set_deadline(c, kSendTime);
  write(c);
}

void Server::Impl::write(Connection& c) {
  const int fd = c.fd.get();
  while (c.sent < c.out.size()) {
    const ssize_t sent = ::send(fd, c.out.data() + c.sent, c.out.size() - c.sent, MSG_NOSIGNAL);
    if (sent < 0 && errno == EINTR) continue;
    if (sent < 0 && errno == EAGAIN) {
      loop->unwatch(fd);
      const Status watched = loop->watch(fd, EPOLLOUT, [this, fd](uint32_t e) { ready(fd, e); });
      if (!watched.ok()) close(fd);
      return;
    }
    if (sent <= 0) return close(fd);
    c.sent += static_cast<size_t>(sent);
  }
  // A body that nobody reads would make the kernel reset the connection before the answer is read.
  ::shutdown(fd, SHUT_WR);
  std::array<char, kHeadBytesMax> rest{};
  while (::recv(fd, rest.data(), rest.size(), MSG_DONTWAIT) > 0) {
  }
  close(fd);
}

Server::Server(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

Server::~Server() {
  const uint64_t one = 1;
  [[maybe_unused]] const auto told = ::write(impl_->wake.get(), &one, sizeof one);
  impl_->thread.join();
}

uint16_t Server::port() const {
  return port_of(impl_->listener.get());
}

Result<std::unique_ptr<Server>> Server::start(const ServerOptions& options, Handler handler) {
  if (!is_loopback(options.address) && options.token.empty() && !options.is_public) {
    return Status(Code::kInvalidArgument,
                  "a page that listens at " + options.address +
                      ", which other machines reach, needs a token; or listen at 127.0.0.1");
  }
  auto impl = std::make_unique<Impl>();
  impl->options = options;
  impl->options.connections_max = std::max(1U, options.connections_max);
  impl->handler = std::move(handler);
  CONVOY_ASSIGN_OR_RETURN(impl->loop, EventLoop::create());
  CONVOY_ASSIGN_OR_RETURN(impl->listener, listen_at(options.address, options.port));
  impl->wake.reset(::eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK));
  if (!impl->wake) return errno_status("making an eventfd", errno);
  Impl* const raw = impl.get();
  CONVOY_RETURN_IF_ERROR(
      raw->loop->watch(raw->listener.get(), EPOLLIN, [raw](uint32_t) { raw->accept_all(); }));
  CONVOY_RETURN_IF_ERROR(
      raw->loop->watch(raw->wake.get(), EPOLLIN, [raw](uint32_t) { raw->loop->stop(); }));
  raw->thread = std::thread([raw] {
    const Status status = raw->loop->run();
    if (!status.ok()) {
      CONVOY_LOG(Error) << "the page has ended: " << status.to_string();
    }
  });
  return std::unique_ptr<Server>(new Server(std::move(impl)));
}

}  // namespace convoy::http
