#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>

// A small HTTP/1.1 server for reading: one thread, GET and HEAD, one request a connection. Every
// client has a deadline and a limit for what it may send, and there are so many at most.
namespace convoy::http {

struct ServerOptions {
  std::string address;
  uint16_t port = 0;
  std::string token;
  uint32_t connections_max = 64;
  // Whoever reaches it may read, whatever name he has for it; the address decides who does.
  bool is_public = false;
};

struct Answer {
  int status = 200;
  std::string type;
  std::string body;
  bool is_public = false;  // no token is asked for
};

// Parameters are those of the URL's query, as they stand there. Called on the server's thread.
using Handler =
    std::function<Answer(const std::string& path, const std::map<std::string, std::string>& query)>;

class Server {
 public:
  static Result<std::unique_ptr<Server>> start(const ServerOptions& options, Handler handler);
  ~Server();
  uint16_t port() const;

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::http
