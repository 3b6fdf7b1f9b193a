#include "src/rpc/client_stream.h"

#include "src/rpc/wire.h"

#include <utility>

namespace convoy::rpc {

ClientStream::ClientStream(std::string what, std::function<void(Received)> received, Ended ended)
    : what_(std::move(what)), received_(std::move(received)), ended_(std::move(ended)) {}

void ClientStream::begin() {
  self_ = shared_from_this();
  held_ = true;
  AddHold();
  StartCall();
}

void ClientStream::let_go() {
  {
    const std::lock_guard lock(mutex_);
    if (!std::exchange(held_, false)) return;
  }
  RemoveHold();
}

void ClientStream::send(Message message) {
  grpc::ByteBuffer bytes = to_wire(std::move(message));
  const std::lock_guard lock(mutex_);
  if (!held_) return;
  waiting_bytes_ += bytes.Length();
  outgoing_.push_back(std::move(bytes));
  if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
}

size_t ClientStream::waiting_bytes() const {
  const std::lock_guard lock(mutex_);
  return waiting_bytes_;
}

void ClientStream::OnWriteDone(bool ok) {
  {
    const std::lock_guard lock(mutex_);
    waiting_bytes_ -= outgoing_.front().Length();
    outgoing_.pop_front();
    if (ok && held_ && !outgoing_.empty()) StartWrite(&outgoing_.front());
  }
  if (!ok) let_go();
}

void ClientStream::read_next() {
  const std::lock_guard lock(mutex_);
  if (held_) StartRead(&incoming_);
}

void ClientStream::OnReadDone(bool ok) {
  if (!ok) return let_go();
  Result<Received> message = from_wire(incoming_);
  incoming_.Clear();
  if (!message.ok()) return end(message.status());
  received_(std::move(message).value());
}

void ClientStream::end(Status) {
  {
    const std::lock_guard lock(mutex_);
    if (context_ != nullptr) context_->TryCancel();
  }
  let_go();
}

std::string ClientStream::peer() const {
  const std::lock_guard lock(mutex_);
  return context_ != nullptr ? context_->peer() : what_;
}

void ClientStream::OnDone(const grpc::Status& status) {
  const std::shared_ptr<ClientStream> self = std::move(self_);
  std::unique_ptr<grpc::ClientContext> context;
  {
    const std::lock_guard lock(mutex_);
    context = std::move(context_);
  }
  ended_(std::move(context), status.ok()
                                 ? Status(Code::kAborted, what_ + ": the server has ended it")
                                 : from_grpc(status, what_));
}

}  // namespace convoy::rpc
