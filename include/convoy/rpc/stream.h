#pragma once

#include <convoy/rpc/message.h>

#include <functional>

namespace convoy::rpc {

// One end of a stream: messages go both ways, each way in order, until either side ends it. Both
// ends look the same. Thread-safe.
class Stream {
 public:
  virtual ~Stream() = default;
  // Queues it; whoever sends more than the other side takes looks at waiting_bytes(). Nothing
  // happens after the end.
  virtual void send(Message message) = 0;
  // Of messages that have not been handed to the network yet.
  virtual size_t waiting_bytes() const = 0;
  // Lets one message come: `received` is called for it. Not before it was called for the last one.
  // As long as nobody asks, the sender is held up by gRPC's flow control.
  virtual void read_next() = 0;
  // A server's status is what the client gets to know; a client just goes. `ended` follows.
  virtual void end(Status status) = 0;
  // The other side's address, for messages.
  virtual std::string peer() const = 0;
};

// Called on threads of gRPC's, one at a time; must not block.
struct StreamEvents {
  std::function<void(Received message)> received;
  // Once, and the last: nothing of the stream is called any more.
  std::function<void(const Status& why)> ended;
};

}  // namespace convoy::rpc
