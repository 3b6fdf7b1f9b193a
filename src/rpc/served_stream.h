#pragma once

#include <convoy/rpc/server.h>

#include <deque>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/grpcpp.h>
#include <mutex>
#include <optional>

namespace convoy::rpc {

// The server's end. Keeps itself alive from begin() until it has ended.
class ServedStream final : public Stream,
                           public grpc::ServerGenericBidiReactor,
                           public std::enable_shared_from_this<ServedStream> {
 public:
  explicit ServedStream(grpc::GenericCallbackServerContext* context) : peer_(context->peer()) {}
  void begin(const StreamHandler& handler);

  void send(Message message) override;
  size_t waiting_bytes() const override;
  void read_next() override;
  void end(Status status) override;
  std::string peer() const override { return peer_; }

 private:
  void OnWriteDone(bool ok) override;
  void OnReadDone(bool ok) override;
  void OnCancel() override;
  void OnDone() override;
  void finish(Status status);

  const std::string peer_;
  StreamEvents events_;
  grpc::ByteBuffer incoming_;
  std::shared_ptr<ServedStream> self_;  // from begin() to OnDone()

  mutable std::mutex mutex_;
  // Guarded by mutex_.
  bool finished_ = false;
  std::optional<Status> ending_;           // once all is written
  std::deque<grpc::ByteBuffer> outgoing_;  // the first one is being written
  size_t waiting_bytes_ = 0;
  Status why_;
};

}  // namespace convoy::rpc
