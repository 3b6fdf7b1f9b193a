#pragma once

#include <convoy/rpc/message.h>
#include <convoy/rpc/stream.h>

#include <functional>

namespace convoy::rpc {

// A connection to a server, made with the first call and made again when it breaks. Thread-safe.
class Channel {
 public:
  using Done = std::function<void(Result<Received>)>;

  // `address` is HOST:PORT. Does not block and does not connect yet. kInvalidArgument: TLS files.
  static Result<std::unique_ptr<Channel>> create(const std::string& address,
                                                 const ConnectionOptions& options);
  // Ends, see close().
  ~Channel();
  const std::string& address() const;

  // `done` is called exactly once, on a thread of gRPC's or (after close()) the caller's; it must
  // not block. Failures of the server's handler keep code and text. kUnavailable: nobody there;
  // kDeadlineExceeded after `timeout`. Both name method and address.
  void call(const std::string& method, Message request, Nanos timeout, Done done);
  // The same, blocking. Not on gRPC's threads.
  Result<Received> call(const std::string& method, Message request, Nanos timeout);

  // Connects to a stream of the server's. Never fails at once: a stream that can't be has ended.
  std::shared_ptr<Stream> open_stream(const std::string& method, StreamEvents events);

  // Cancels what is under way, and returns when all `done` and `ended` have been called. Later
  // calls fail with kAborted. Not on gRPC's threads, nor is the end of a channel or server.
  void close();

 private:
  struct Impl;
  explicit Channel(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::rpc
