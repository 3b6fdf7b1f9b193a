#pragma once

#include <cstdint>

// What the kernel knows of this process's connections, as counters of the links to other ranks.
namespace convoy::trace {

// While it lives, the recorder asks the kernel about a TCP socket once a second (TCP_INFO) and
// records, summed up over all that lead to the rank `peer` of the job: names::kSentBytes,
// kReceivedBytes, kRetransmits, kRoundTrip (the longest), kSendWait and kPeerWait. Does not own the
// descriptor, and knows by the socket's cookie if it has become another one's. Sockets of other
// kinds are left out. Thread-safe.
class WatchedSocket {
 public:
  WatchedSocket(int fd, int peer);
  ~WatchedSocket();
  WatchedSocket(WatchedSocket&& other) noexcept : number_(other.number_) { other.number_ = 0; }
  WatchedSocket& operator=(WatchedSocket&&) = delete;

 private:
  uint64_t number_ = 0;
};

}  // namespace convoy::trace
