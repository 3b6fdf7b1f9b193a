#pragma once

#include <convoy/base/status.h>
#include <convoy/rpc/message.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// Lines between the supervisor and the launchers of other machines: messages of bytes, over streams
// of rpc. What is behind this talks gRPC and lies in libconvoy_cluster, which is loaded with the
// first line.
namespace convoy::resilience {

struct LineNews {
  enum class Kind : uint8_t { kOpened, kMessage, kEnded };
  Kind kind = Kind::kMessage;
  uint64_t line = 0;
  std::string bytes{};  // the message; of kOpened the other side's address
  Status why{};         // of kEnded
};

// All lines of one process. One thread calls; news wait for it, and hold up the sender.
class Lines {
 public:
  virtual ~Lines() = default;
  virtual int fd() const = 0;  // readable when there is news
  virtual std::vector<LineNews> take_news() = 0;
  // Of dial_lines(): a new line. Never fails at once: one that can't be has ended.
  virtual uint64_t open() = 0;
  // Dropped if the line has ended. A line whose other side does not read is ended.
  virtual void send(uint64_t line, const std::string& bytes) = 0;
  // Behind what was sent. The other side gets to know why, if this one listens.
  virtual void end(uint64_t line, const Status& why) = 0;
};

// Takes lines at `port` of all this machine's addresses. kAlreadyExists: the port is taken;
// kInvalidArgument: TLS files.
Result<std::unique_ptr<Lines>> listen_lines(uint16_t port,
                                            const rpc::ConnectionOptions& connection);
// Opens lines to HOST:PORT. kInvalidArgument: TLS files.
Result<std::unique_ptr<Lines>> dial_lines(const std::string& address,
                                          const rpc::ConnectionOptions& connection);

}  // namespace convoy::resilience
