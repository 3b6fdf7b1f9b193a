#pragma once

#include <convoy/rpc/message.h>
#include <convoy/rpc/stream.h>

#include <atomic>
#include <functional>
#include <map>
#include <mutex>

namespace convoy::rpc {

// A call that a server has been asked. Shared by the server, until it has been answered, and by
// whoever will answer.
class Call {
 public:
  virtual ~Call() = default;
  const Received& request() const { return *request_; }
  // Answers; any thread, may be later than the handler's return. The first answer counts, further
  // ones do nothing.
  virtual void finish(Result<Message> answer) = 0;
  // Whether the caller has gone or given up.
  bool cancelled() const { return cancelled_; }
  // Called once, on a thread of the server, when the caller goes before it was answered. Set it in
  // the handler.
  void on_cancel(std::function<void()> what);

 protected:
  void cancel();
  std::unique_ptr<Received> request_;

 private:
  std::atomic<bool> cancelled_{false};
  std::mutex mutex_;
  std::function<void()> on_cancel_;  // guarded by mutex_
};

// Must not block: few threads serve all calls. Work that takes long is handed to a thread of the
// owner's, which finishes the call.
using Handler = std::function<void(const std::shared_ptr<Call>&)>;
using Handlers = std::map<std::string, Handler>;  // by method

// Takes a stream that a client has opened, and says where its messages go. As handlers, it must not
// block; the stream may be ended and read_next() be called within it.
using StreamHandler = std::function<StreamEvents(const std::shared_ptr<Stream>&)>;
using StreamHandlers = std::map<std::string, StreamHandler>;

struct ServerOptions {
  std::string host;   // to bind; empty: all addresses of this machine
  uint16_t port = 0;  // 0: the kernel chooses
  ConnectionOptions connection;
  size_t memory_bytes_max = 0;   // of gRPC's buffers, of all connections; 0: no limit
  int calls_per_client_max = 0;  // calls and streams of one connection at a time; 0: no limit
  // That a client may send of a stream before it is read. 0: gRPC finds the line's delay with a
  // ping for what it receives, which a server of many clients with small messages feels.
  int window_bytes = 0;
};

// Serves calls on threads of gRPC's own (2 to 16 in a process, after the machine's cores).
class Server {
 public:
  // kAlreadyExists: the port is taken; kInvalidArgument: host or TLS files.
  static Result<std::unique_ptr<Server>> start(const ServerOptions& options, Handlers handlers,
                                               StreamHandlers streams = {});
  // Stops, see stop().
  ~Server();
  uint16_t port() const;
  // Takes no new calls, gives those in work `grace` to be answered, then answers them with
  // kAborted. When it returns no handler runs any more.
  void stop(Nanos grace = {});

 private:
  struct Impl;
  explicit Server(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace convoy::rpc
