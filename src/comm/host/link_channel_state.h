#pragma once

// What link_channel.cc (sockets) and link_messages.cc (matching) share.
#include "src/comm/host/link_channel.h"

#include <vector>

namespace convoy::host {

struct LinkChannel::Message {
  bool is_send = false;
  int peer = 0;  // destination, or wanted source (kAnySource until matched)
  int tag = 0;
  uint64_t id = 0;
  char* data = nullptr;  // null once the caller's memory must not be touched any more
  size_t bytes = 0;
  size_t moved = 0;
  bool done = false;
  Status status;
  std::condition_variable changed;
};

// A frame on its way out.
struct LinkChannel::Outgoing {
  char header[Frame::kBytes];
  const char* payload = nullptr;  // the caller's memory; null: `owned`
  size_t payload_bytes = 0;
  std::string owned;
  MessagePtr message;  // informed when the kernel has taken it
  size_t done = 0;     // bytes of header and payload that the kernel has taken

  const char* bytes() const { return payload != nullptr ? payload : owned.data(); }
  // The caller gets its memory back before the kernel has taken it.
  void keep_own_copy() {
    if (payload != nullptr) owned.assign(payload, payload_bytes);
    payload = nullptr;
    message.reset();
  }
};

struct LinkChannel::Stream {
  UniqueFd fd;
  std::deque<Outgoing> queue;
  bool armed = false;  // the loop watches for room to write
  // The frame that is being read.
  char header[Frame::kBytes];
  size_t header_got = 0;
  Frame frame;
  size_t payload_got = 0;
  MessagePtr into;          // the receive its payload goes to, at frame.offset,
  std::vector<char> owned;  // or here (an abort's text, or an unexpected message), or nowhere
  bool unexpected = false;
};

struct LinkChannel::Peer {
  std::vector<Stream> streams;
  size_t next_stream = 0;
  bool helped = false;           // a waiting thread reads and writes its streams, not the loop
  size_t credit = kEagerCredit;  // bytes of small messages that may still be sent unasked
  size_t owed = 0;               // bytes taken here that the peer has not been told of
  size_t pending = 0;            // sends that wait for a grant
  size_t unexpected = 0;         // its messages that no receive has taken
  bool left = false;
  bool lost = false;
};

struct LinkChannel::Unexpected {
  int from = 0;
  int tag = 0;
  uint64_t id = 0;
  uint64_t bytes = 0;
  bool asks = false;  // a request: the bytes are still there
  std::vector<char> data;
};

}  // namespace convoy::host
