#include "src/rpc/served_stream.h"

#include "src/rpc/wire.h"

#include <utility>

namespace convoy::rpc {

void ServedStream::begin(const StreamHandler& handler) {
  self_ = shared_from_this();
  events_ = handler(self_);
}

void ServedStream::send(Message message) {
  grpc::ByteBuffer bytes = to_wire(std::move(message));
  const std::lock_guard lock(mutex_);
  if (finished_ || ending_) return;
  waiting_bytes_ += bytes.Length();
  outgoing_.push_back(std::move(bytes));
  if (outgoing_.size() == 1) StartWrite(&outgoing_.front());
}

size_t ServedStream::waiting_bytes() const {
  const std::lock_guard lock(mutex_);
  return waiting_bytes_;
}

void ServedStream::OnWriteDone(bool ok) {
  std::optional<Status> end;
  {
    const std::lock_guard lock(mutex_);
    waiting_bytes_ -= outgoing_.front().Length();
    outgoing_.pop_front();
    if (!ok) end = Status(Code::kUnavailable, "the client does not read");
    if (!end && ending_ && outgoing_.empty()) end = std::exchange(ending_, std::nullopt);
    if (!end && !finished_ && !outgoing_.empty()) StartWrite(&outgoing_.front());
  }
  if (end) finish(std::move(*end));
}

void ServedStream::read_next() {
  const std::lock_guard lock(mutex_);
  if (!finished_) StartRead(&incoming_);
}

void ServedStream::OnReadDone(bool ok) {
  if (!ok) return end(Status(Code::kAborted, "the client has ended the stream"));
  Result<Received> message = from_wire(incoming_);
  incoming_.Clear();
  if (!message.ok()) return end(message.status());
  events_.received(std::move(message).value());
}

void ServedStream::end(Status status) {
  {
    const std::lock_guard lock(mutex_);
    if (!finished_ && !outgoing_.empty()) {
      if (!ending_) ending_ = std::move(status);
      return;
    }
  }
  finish(std::move(status));
}

void ServedStream::finish(Status status) {
  const std::lock_guard lock(mutex_);
  if (std::exchange(finished_, true)) return;
  why_ = status.ok() ? Status(Code::kAborted, "the stream has ended") : status;
  Finish(to_grpc(status));
}

void ServedStream::OnCancel() {
  finish(Status(Code::kAborted, "the client has gone"));
}

void ServedStream::OnDone() {
  const std::shared_ptr<ServedStream> self = std::move(self_);
  events_.ended(why_);
  events_ = {};
}

}  // namespace convoy::rpc
