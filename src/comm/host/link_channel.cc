// The message streams' sockets: frames in, frames out, failure and leaving. Which message meets
// which receive is decided in link_messages.cc.
#include "src/comm/host/link_channel.h"

#include "src/comm/host/link_channel_state.h"
#include "src/comm/host/link_signature.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <poll.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <utility>

namespace convoy::host {
namespace {

constexpr size_t kVisitBytes = size_t{1} << 20;
constexpr size_t kDiscardBytes = size_t{64} << 10;
constexpr int kFramesPerWrite = 8;
constexpr int kReadsPerVisit = 16;  // then the loop looks at the other connections
// A helping thread looks so often whether its message ended in another way (abort, cancel).
constexpr std::chrono::milliseconds kHelpSlice{20};
// After goodbye, the peers' last bytes are awaited this long, so that closing does not destroy
// ours.
constexpr std::chrono::seconds kLinger{2};

}  // namespace

LinkChannel::LinkChannel(TcpLoop& loop, int rank, std::vector<std::vector<UniqueFd>> streams,
                         Options options, OnFailure on_failure, OnLeft on_left)
    : loop_(loop),
      rank_(rank),
      size_(static_cast<int>(streams.size())),
      options_(std::move(options)),
      on_failure_(std::move(on_failure)),
      on_left_(std::move(on_left)) {
  for (auto& fds : streams) {
    auto peer = std::make_unique<Peer>();
    for (UniqueFd& fd : fds) {
      peer->streams.emplace_back();
      peer->streams.back().fd = std::move(fd);
    }
    peers_.push_back(std::move(peer));
  }
}

LinkChannel::~LinkChannel() = default;

Status LinkChannel::start() {
  Status status;
  loop_.run_now([&] {
    for (int r = 0; r < size_ && status.ok(); ++r) {
      for (size_t s = 0; s < peers_[r]->streams.size() && status.ok(); ++s) {
        // The handler keeps the channel: bytes may leave after the group has.
        status = loop_.add(
            peers_[r]->streams[s].fd.get(), EPOLLIN,
            [self = shared_from_this(), r, s](uint32_t events) { self->handle(r, s, events); });
      }
    }
  });
  return status;
}

void LinkChannel::handle(int rank, size_t stream, uint32_t events) {
  std::unique_lock lock(mutex_);
  const Stream& watched = peers_[rank]->streams[stream];
  if (peers_[rank]->lost || !watched.fd) return;
  if ((events & EPOLLOUT) != 0) write_some(rank, stream);
  if ((events & (EPOLLIN | EPOLLHUP | EPOLLERR | EPOLLRDHUP)) != 0) {
    for (int i = 0; i < kReadsPerVisit && !peers_[rank]->lost && watched.fd; ++i) {
      if (!read_some(rank, stream)) break;
    }
  }
  news(lock);
}

void LinkChannel::push(int rank, size_t stream_index, const Frame& frame, const char* payload,
                       std::string owned, MessagePtr message) {
  Stream& stream = peers_[rank]->streams[stream_index];
  if (peers_[rank]->lost || !stream.fd) return;
  Outgoing out;
  frame.encode(out.header);
  out.payload_bytes = frame.payload_bytes();
  out.owned = std::move(owned);
  out.payload = payload;
  out.message = std::move(message);
  stream.queue.push_back(std::move(out));
  if (!stream.armed) write_some(rank, stream_index);
}

void LinkChannel::write_some(int rank, size_t stream_index) {
  Stream& stream = peers_[rank]->streams[stream_index];
  while (!stream.queue.empty()) {
    iovec vector[2 * kFramesPerWrite];
    int count = 0;
    size_t bytes = 0;
    for (size_t i = 0; i < stream.queue.size() && i < kFramesPerWrite; ++i) {
      Outgoing& out = stream.queue[i];
      const size_t header_done = std::min(out.done, Frame::kBytes);
      const size_t payload_done = out.done - header_done;
      vector[count++] = {out.header + header_done, Frame::kBytes - header_done};
      vector[count++] = {const_cast<char*>(out.bytes()) + payload_done,
                         out.payload_bytes - payload_done};
      bytes += Frame::kBytes + out.payload_bytes - out.done;
    }
    msghdr message{};
    message.msg_iov = vector;
    message.msg_iovlen = static_cast<size_t>(count);
    const ssize_t n = ::sendmsg(stream.fd.get(), &message, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n < 0 && errno == EINTR) continue;
    if (n < 0 && errno != EAGAIN) return lost(rank, std::strerror(errno));
    if (n > 0) wrote(stream, static_cast<size_t>(n));
    if (n < 0 || static_cast<size_t>(n) < bytes) break;
  }
  const bool arm = !stream.queue.empty();
  if (!arm && left_) ::shutdown(stream.fd.get(), SHUT_WR);
  if (arm == stream.armed) return;
  stream.armed = arm;
  watch(rank, stream);
}

// Tells the loop what to look for. Broken connections it sees always.
void LinkChannel::watch(int rank, const Stream& stream) {
  uint32_t events = 0;
  if (!peers_[rank]->helped) events |= EPOLLIN;
  if (!peers_[rank]->helped && stream.armed) events |= EPOLLOUT;
  (void)loop_.modify(stream.fd.get(), events);
}

// Performs the traffic with the message's peer on this thread until the message is done. What ends
// a connection is left to the loop, which closes it.
void LinkChannel::help(std::unique_lock<std::mutex>& lock, const MessagePtr& message,
                       TimePoint until) {
  if (message->done || message->peer == kAnySource) return;
  const int rank = message->peer;
  Peer& peer = *peers_[rank];
  if (peer.helped || peer.lost || left_) return;
  const auto set_helped = [&](bool helped) {
    peer.helped = helped;
    for (const Stream& stream : peer.streams) {
      if (stream.fd) watch(rank, stream);
    }
  };
  set_helped(true);
  serve(lock, message, until);
  set_helped(false);
}

void LinkChannel::serve(std::unique_lock<std::mutex>& lock, const MessagePtr& message,
                        TimePoint until) {
  const int rank = message->peer;
  Peer& peer = *peers_[rank];
  std::vector<pollfd> ready(peer.streams.size());
  while (!message->done && !peer.lost && Clock::system().now() < until) {
    for (size_t s = 0; s < ready.size(); ++s) {
      const Stream& stream = peer.streams[s];
      const int out = stream.armed ? POLLOUT : 0;
      ready[s] = {stream.fd ? stream.fd.get() : -1, static_cast<short>(POLLIN | POLLRDHUP | out),
                  0};
    }
    lock.unlock();
    ::poll(ready.data(), ready.size(), static_cast<int>(kHelpSlice.count()));
    lock.lock();
    for (size_t s = 0; s < ready.size() && !peer.lost; ++s) {
      if ((ready[s].revents & (POLLHUP | POLLRDHUP | POLLERR)) != 0) return;
      if (!peer.streams[s].fd) continue;
      if ((ready[s].revents & POLLOUT) != 0) write_some(rank, s);
      if ((ready[s].revents & POLLIN) == 0) continue;
      for (int i = 0; i < kReadsPerVisit && !message->done && !peer.lost; ++i) {
        if (!read_some(rank, s)) break;
      }
    }
    const bool any_news = !left_news_.empty() || (!error_.ok() && !failure_told_);
    if (!any_news) continue;
    // Those who are told may end the group, so not on a thread that the group does not wait for.
    loop_.post([self = shared_from_this()] {
      std::unique_lock told(self->mutex_);
      self->news(told);
    });
    return;
  }
}

void LinkChannel::wrote(Stream& stream, size_t bytes) {
  while (bytes > 0) {
    Outgoing& out = stream.queue.front();
    const size_t now = std::min(bytes, Frame::kBytes + out.payload_bytes - out.done);
    out.done += now;
    bytes -= now;
    if (out.done < Frame::kBytes + out.payload_bytes) return;
    if (out.message) {
      out.message->moved += out.payload_bytes;
      if (out.message->moved == out.message->bytes) finish(out.message, ok_status());
    }
    stream.queue.pop_front();
  }
}

// Reads one step; false when nothing more can be read now.
bool LinkChannel::read_some(int rank, size_t stream_index) {
  Stream& stream = peers_[rank]->streams[stream_index];
  ssize_t n = 0;
  if (stream.header_got < Frame::kBytes) {
    n = ::recv(stream.fd.get(), stream.header + stream.header_got,
               Frame::kBytes - stream.header_got, 0);
    if (n > 0) {
      stream.header_got += static_cast<size_t>(n);
      if (stream.header_got < Frame::kBytes) return true;
      const auto frame = Frame::decode(stream.header);
      Status begun = frame.status();
      if (frame.ok()) {
        stream.frame = *frame;
        stream.payload_got = 0;
        begun = frame_begins(rank, stream_index, *frame);
      }
      if (!begun.ok()) {
        lost(rank, "it sent " + begun.message());
        return false;
      }
    }
  } else {
    size_t room = 0;
    char* target = payload_target(stream, room);
    n = ::recv(stream.fd.get(), target, std::min(room, kVisitBytes), 0);
    if (n > 0) stream.payload_got += static_cast<size_t>(n);
  }
  if (n == 0) {
    if (loop_.on_loop()) ended(rank, stream_index);  // else serve() leaves it to the loop
    return false;
  }
  if (n < 0) {
    if (errno == EINTR) return true;
    if (errno != EAGAIN) lost(rank, std::strerror(errno));
    return false;
  }
  if (stream.payload_got == stream.frame.payload_bytes()) {
    stream.header_got = 0;
    const Frame frame = stream.frame;
    const Status ended = frame_ended(rank, stream_index, frame);
    stream.into.reset();
    stream.owned.clear();
    if (!ended.ok()) {
      lost(rank, "it sent " + ended.message());
      return false;
    }
  }
  return true;
}

// Where the next bytes of the payload go. What nobody wants any more is read and forgotten.
char* LinkChannel::payload_target(Stream& stream, size_t& room) {
  static thread_local std::vector<char> discard(kDiscardBytes);
  room = stream.frame.payload_bytes() - stream.payload_got;
  if (stream.into && stream.into->data != nullptr) {
    return stream.into->data + stream.frame.offset + stream.payload_got;
  }
  if (!stream.owned.empty()) return stream.owned.data() + stream.payload_got;
  room = std::min(room, discard.size());
  return discard.data();
}

// The other side says that nothing more comes on this stream. A rank that leaves does so on all of
// them after its goodbye, which may be read later than the end of another stream; one that dies
// ends stream 0 without a goodbye. Closing our side tells a leaving rank that all has been read.
void LinkChannel::ended(int rank, size_t stream_index) {
  Peer& peer = *peers_[rank];
  if (stream_index == 0 && !peer.left && !left_ && error_.ok()) {
    return lost(rank, "it closed the connection");
  }
  Stream& stream = peer.streams[stream_index];
  loop_.remove(stream.fd.get());
  stream.fd.reset();
  stream.queue.clear();
  closed_.notify_all();
  if (std::any_of(peer.streams.begin(), peer.streams.end(),
                  [](const Stream& s) { return static_cast<bool>(s.fd); })) {
    return;
  }
  peer.lost = true;
  for (auto at = incoming_.begin(); at != incoming_.end();) {
    const auto [key, message] = *at++;
    if (key.first != rank) continue;
    incoming_.erase(key);
    finish(message,
           Status(Code::kAborted, "rank " + std::to_string(name_of(rank)) + " has left group " +
                                      options_.group + " in the middle of a message"));
  }
}

// The connection to `rank` is of no use any more. Expected after its goodbye, else the group fails.
void LinkChannel::lost(int rank, const std::string& why) {
  Peer& peer = *peers_[rank];
  if (peer.lost) return;
  peer.lost = true;
  for (Stream& stream : peer.streams) stream.queue.clear();
  loop_.post([self = shared_from_this(), rank] {
    const std::lock_guard lock(self->mutex_);
    self->close_streams(rank);
  });
  if (peer.left || left_ || !error_.ok()) return;
  error_ = Status(Code::kAborted, "group " + options_.group + ": lost the connection to rank " +
                                      std::to_string(name_of(rank)) + ": " + why +
                                      "; its process or machine has probably died, see its log");
}

// Acts on what happened under the lock: failure, goodbyes.
void LinkChannel::news(std::unique_lock<std::mutex>& lock) {
  auto left = std::exchange(left_news_, {});
  const bool failed = !error_.ok() && !failure_told_;
  const Status cause = error_;
  const bool silent = left_;
  lock.unlock();
  if (failed && !silent) (void)fail(cause);
  if (silent) return;
  for (const auto& [rank, sequence] : left) on_left_(rank, sequence);
}

Status LinkChannel::error() const {
  const std::lock_guard lock(mutex_);
  return error_;
}

Status LinkChannel::fail(const Status& cause) {
  std::unique_lock lock(mutex_);
  if (error_.ok()) error_ = cause;
  if (std::exchange(failure_told_, true) || left_) return error_;
  const Status first = error_;
  drop_queues();
  Frame frame;
  frame.type = FrameType::kAbort;
  frame.tag = static_cast<int32_t>(first.code());
  frame.bytes = std::min(first.message().size(), Frame::kTextMax);
  for (int r = 0; r < size_; ++r) {
    if (r == rank_ || peers_[r]->left) continue;
    push(r, 0, frame, nullptr, first.message().substr(0, frame.bytes), nullptr);
  }
  for (const MessagePtr& message : std::set<MessagePtr>(active_)) finish(message, first);
  posted_.clear();
  unexpected_.clear();
  asking_.clear();
  incoming_.clear();
  lock.unlock();
  on_failure_(first);
  return first;
}

// Nothing is sent any more but the rest of frames that have begun, from copies: the callers get
// their memory back.
void LinkChannel::drop_queues() {
  for (auto& peer : peers_) {
    for (Stream& stream : peer->streams) {
      if (stream.queue.empty()) continue;
      if (stream.queue.front().done == 0) {
        stream.queue.clear();
        continue;
      }
      stream.queue.front().keep_own_copy();
      stream.queue.erase(stream.queue.begin() + 1, stream.queue.end());
    }
  }
}

void LinkChannel::leave(uint64_t sequence) {
  {
    const std::lock_guard lock(mutex_);
    if (std::exchange(left_, true)) return;
    const Status gone(Code::kAborted, "this rank has left group " + options_.group);
    for (auto& peer : peers_) {
      for (Stream& stream : peer->streams) {
        for (Outgoing& out : stream.queue) out.keep_own_copy();
      }
    }
    for (const MessagePtr& message : std::set<MessagePtr>(active_)) finish(message, gone);
    if (error_.ok()) error_ = gone;
    Frame frame;
    frame.type = FrameType::kGoodbye;
    frame.id = sequence;
    for (int r = 0; r < size_; ++r) {
      if (r != rank_) push(r, 0, frame, nullptr, "", nullptr);
    }
  }
  // The others read what is left and close their side; closing ours before would destroy what they
  // have not read. Their I/O threads do so at once, unless they are gone.
  loop_.run_now([this] {
    const std::lock_guard lock(mutex_);
    for (auto& peer : peers_) {
      for (Stream& stream : peer->streams) {
        if (stream.fd && stream.queue.empty()) ::shutdown(stream.fd.get(), SHUT_WR);
      }
    }
  });
  {
    std::unique_lock lock(mutex_);
    closed_.wait_until(lock, Clock::system().now() + kLinger, [&] {
      return std::all_of(peers_.begin(), peers_.end(), [](const std::unique_ptr<Peer>& peer) {
        return std::none_of(peer->streams.begin(), peer->streams.end(),
                            [](const Stream& s) { return static_cast<bool>(s.fd); });
      });
    });
  }
  loop_.run_now([this] { close_all(); });
}

void LinkChannel::close_all() {
  const std::lock_guard lock(mutex_);
  for (int r = 0; r < size_; ++r) {
    peers_[r]->lost = true;
    close_streams(r);
  }
}

// On the loop, with the lock held.
void LinkChannel::close_streams(int rank) {
  for (Stream& stream : peers_[rank]->streams) {
    if (stream.fd) loop_.remove(stream.fd.get());
    stream.fd.reset();
  }
  closed_.notify_all();
}

}  // namespace convoy::host
