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
  // Called once, the last of all, and given the context: with it goes the channel's last use.
  using Ended = std::function<void(std::unique_ptr<grpc::ClientContext>, const Status&)>;
  ClientStream(std::string what, std::function<void(Received)> received, Ended ended);

  grpc::ClientContext& context() { return *context_; }  // before begin()
  void begin();

  void send(Message message) override;
  size_t waiting_bytes() const override;
  void read_next() override;
  void end(Status status) override;
  std::string peer() const override;

 private:
  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnDone(const grpc::Status& status) override;
  void let_go();

  const std::string what_;
  const std::function<void(Received)> received_;
  const Ended ended_;
  grpc::ByteBuffer incoming_;
  std::shared_ptr<ClientStream> self_;  // from begin() to OnDone()

  mutable std::mutex mutex_;
  // Guarded by mutex_, from here on. Null once ended, so that who keeps a stream keeps no channel.
  std::unique_ptr<grpc::ClientContext> context_ = std::make_unique<grpc::ClientContext>();
  bool held_ = false;  // gRPC's hold is what lets other threads start reads and writes
  std::deque<grpc::ByteBuffer> outgoing_;  // the first one is being written
  size_t waiting_bytes_ = 0;
};

}  // namespace convoy::rpc
