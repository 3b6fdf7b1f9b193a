#pragma once

#include <convoy/rpc/stream.h>

#include <deque>
#include <grpcpp/grpcpp.h>
#include <grpcpp/support/client_callback.h>
#include <mutex>

namespace convoy::rpc {

// The client's end. Keeps itself alive from begin() until it has ended.
class ClientStream final : public Stream,
                           public grpc::ClientBidiReactor<grpc::ByteBuffer, grpc::ByteBuffer>,
                           public std::enable_shared_from_this<ClientStream> {
 public:
  using Ended = std::function<void(grpc::ClientContext*, const Status&)>;
  ClientStream(std::string what, std::function<void(Received)> received, Ended ended);

  grpc::ClientContext& context() { return context_; }
  void begin();

  void send(Message message) override;
  size_t waiting_bytes() const override;
  void read_next() override;
  void end(Status status) override;
  std::string peer() const override { return context_.peer(); }

 private:
  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void let_go();

  const std::string what_;
  const std::function<void(Received)> received_;
  const Ended ended_;
  grpc::ClientContext context_;
  grpc::ByteBuffer incoming_;
  std::shared_ptr<ClientStream> self_;  // from begin() to OnDone()

  mutable std::mutex mutex_;
  // Guarded by mutex_. gRPC's hold is what lets other threads start reads and writes.
  bool held_ = false;
  std::deque<grpc::ByteBuffer> outgoing_;  // the first one is being written
  size_t waiting_bytes_ = 0;
};

}  // namespace convoy::rpc
