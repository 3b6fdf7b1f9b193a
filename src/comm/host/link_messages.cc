// Which message meets which receive: in the order of arrival and of posting, per source and tag.
#include "src/comm/host/link_channel.h"
#include "src/comm/host/link_channel_state.h"
#include "src/comm/host/link_signature.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <cstring>
#include <utility>

namespace convoy::host {
namespace {

// The receiver tells how much it has taken after so many bytes.
constexpr size_t kCreditStep = LinkChannel::kEagerCredit / 4;
// What a small message costs beside its bytes, so that empty ones are bounded too.
constexpr size_t kMessageCost = 128;
constexpr size_t kUnexpectedMax =
    LinkChannel::kPendingMessagesMax + LinkChannel::kEagerCredit / kMessageCost;

}  // namespace

// The caller's handle. Its end before completion cancels the message.
class LinkTransfer final : public Transfer {
 public:
  LinkTransfer(std::shared_ptr<const void> owner, std::shared_ptr<LinkChannel> channel,
               LinkChannel::MessagePtr message)
      : owner_(std::move(owner)), channel_(std::move(channel)), message_(std::move(message)) {}
  ~LinkTransfer() override { channel_->cancel(message_); }
  bool test() override { return channel_->done(message_); }
  Status wait(Deadline deadline) override { return channel_->wait(message_, deadline); }
  int source() const override { return message_->peer; }

 private:
  const std::shared_ptr<const void> owner_;
  const std::shared_ptr<LinkChannel> channel_;
  const LinkChannel::MessagePtr message_;
};

Result<std::shared_ptr<Transfer>> LinkChannel::post_send(const void* data, size_t bytes, int to,
                                                         int tag,
                                                         std::shared_ptr<const void> owner) {
  if (to < 0 || to >= size_ || to == rank_) {
    return Status(Code::kInvalidArgument, "group " + options_.group + " of " +
                                              std::to_string(size_) + ": can't send to rank " +
                                              std::to_string(to));
  }
  std::unique_lock lock(mutex_);
  if (!error_.ok()) return error_;
  Peer& peer = *peers_[to];
  if (peer.left || peer.lost) {
    return Status(Code::kAborted,
                  "rank " + std::to_string(name_of(to)) + " has left group " + options_.group);
  }
  auto message = std::make_shared<Message>();
  message->is_send = true;
  message->peer = to;
  message->tag = tag;
  message->id = next_id_++;
  message->data = static_cast<char*>(const_cast<void*>(data));
  message->bytes = bytes;
  Frame frame;
  frame.tag = tag;
  frame.id = message->id;
  frame.bytes = bytes;
  active_.insert(message);
  if (bytes <= Frame::kEagerMax && peer.credit >= bytes + kMessageCost) {
    peer.credit -= bytes + kMessageCost;
    frame.type = FrameType::kEager;
    push(to, 0, frame, message->data, "", message);
  } else {
    if (peer.pending >= kPendingMessagesMax) {
      active_.erase(message);
      return Status(Code::kResourceExhausted, std::to_string(peer.pending) + " messages to rank " +
                                                  std::to_string(name_of(to)) + " of group " +
                                                  options_.group +
                                                  " have not been received; wait for some of them");
    }
    ++peer.pending;
    asking_[{to, message->id}] = message;
    frame.type = FrameType::kRequest;
    push(to, 0, frame, nullptr, "", nullptr);
  }
  news(lock);
  return std::shared_ptr<Transfer>(
      std::make_shared<LinkTransfer>(std::move(owner), shared_from_this(), message));
}

Result<std::shared_ptr<Transfer>> LinkChannel::post_recv(void* data, size_t bytes, int from,
                                                         int tag,
                                                         std::shared_ptr<const void> owner) {
  if ((from < 0 || from >= size_ || from == rank_) && from != kAnySource) {
    return Status(Code::kInvalidArgument, "group " + options_.group + " of " +
                                              std::to_string(size_) + ": can't receive from rank " +
                                              std::to_string(from));
  }
  std::unique_lock lock(mutex_);
  if (!error_.ok()) return error_;
  auto message = std::make_shared<Message>();
  message->peer = from;
  message->tag = tag;
  message->data = static_cast<char*>(data);
  message->bytes = bytes;
  active_.insert(message);
  const auto found = std::find_if(unexpected_.begin(), unexpected_.end(), [&](const auto& u) {
    return u.tag == tag && (from == kAnySource || u.from == from);
  });
  if (found == unexpected_.end()) {
    const bool nobody = from != kAnySource && (peers_[from]->left || peers_[from]->lost);
    if (nobody) {
      finish(message, Status(Code::kAborted, "rank " + std::to_string(name_of(from)) +
                                                 " has left group " + options_.group));
    } else {
      posted_.push_back(message);
    }
  } else {
    Unexpected taken = std::move(*found);
    unexpected_.erase(found);
    take_unexpected(message, std::move(taken));
  }
  news(lock);
  return std::shared_ptr<Transfer>(
      std::make_shared<LinkTransfer>(std::move(owner), shared_from_this(), message));
}

// A receive finds a message that has come before it.
void LinkChannel::take_unexpected(const MessagePtr& message, Unexpected&& taken) {
  --peers_[taken.from]->unexpected;
  const bool fits = accept(message, taken.from, taken.bytes).ok();
  if (taken.asks) {
    if (fits)
      grant(message, taken.from, taken.id);
    else
      refuse(taken.from, taken.id);
    return;
  }
  give_credit(taken.from, taken.bytes);
  if (!fits) return;
  if (taken.bytes > 0) std::memcpy(message->data, taken.data.data(), taken.bytes);
  finish(message, ok_status());
}

void LinkChannel::refuse(int rank, uint64_t id) {
  Frame frame;
  frame.type = FrameType::kRefuse;
  frame.id = id;
  push(rank, 0, frame, nullptr, "", nullptr);
}

// Binds a receive to a message of `rank`. Another size ends the receive.
Status LinkChannel::accept(const MessagePtr& message, int rank, uint64_t bytes) {
  message->peer = rank;
  if (message->bytes == bytes) return ok_status();
  const Status mismatch(Code::kMismatch, "group " + options_.group + ": rank " +
                                             std::to_string(name_of(rank)) + " sent a message of " +
                                             std::to_string(bytes) + " bytes with tag " +
                                             std::to_string(message->tag) + ", rank " +
                                             std::to_string(name_of(rank_)) + " receives " +
                                             std::to_string(message->bytes));
  finish(message, mismatch);
  return mismatch;
}

void LinkChannel::grant(const MessagePtr& message, int rank, uint64_t id) {
  message->id = id;
  if (message->bytes == 0)
    finish(message, ok_status());
  else
    incoming_[{rank, id}] = message;
  Frame frame;
  frame.type = FrameType::kGrant;
  frame.id = id;
  push(rank, 0, frame, nullptr, "", nullptr);
}

void LinkChannel::give_credit(int rank, size_t bytes) {
  Peer& peer = *peers_[rank];
  peer.owed += bytes + kMessageCost;
  if (peer.owed < kCreditStep) return;
  Frame frame;
  frame.type = FrameType::kCredit;
  frame.bytes = std::exchange(peer.owed, 0);
  push(rank, 0, frame, nullptr, "", nullptr);
}

LinkChannel::MessagePtr LinkChannel::take_posted(int rank, int tag) {
  const auto found = std::find_if(posted_.begin(), posted_.end(), [&](const MessagePtr& m) {
    return m->tag == tag && (m->peer == kAnySource || m->peer == rank);
  });
  if (found == posted_.end()) return nullptr;
  MessagePtr message = *found;
  posted_.erase(found);
  return message;
}

// Decides where a frame's payload goes. A failed status: the peer breaks the protocol.
Status LinkChannel::frame_begins(int rank, size_t stream_index, const Frame& frame) {
  Stream& stream = peers_[rank]->streams[stream_index];
  stream.into.reset();
  stream.owned.clear();
  stream.unexpected = false;
  if (!error_.ok()) {
    if (frame.type == FrameType::kAbort) stream.owned.resize(frame.bytes);
    return ok_status();
  }
  if (stream_index != 0 && frame.type != FrameType::kData) {
    return Status(Code::kDataLoss, "a frame on the wrong stream");
  }
  if (frame.type == FrameType::kAbort) stream.owned.resize(frame.bytes);
  if (frame.type == FrameType::kEager) {
    if (MessagePtr message = take_posted(rank, frame.tag)) {
      stream.frame.offset = 0;
      if (accept(message, rank, frame.bytes).ok()) stream.into = std::move(message);
      give_credit(rank, frame.bytes);
      return ok_status();
    }
    if (++peers_[rank]->unexpected > kUnexpectedMax) {
      return Status(Code::kDataLoss, "more messages than it may");
    }
    // Its place in the order is now, the bytes follow before anything else is looked at.
    stream.owned.resize(frame.bytes);
    stream.unexpected = true;
  }
  if (frame.type == FrameType::kData) {
    const auto found = incoming_.find({rank, frame.id});
    if (found == incoming_.end()) return ok_status();  // cancelled: read and forget
    const size_t bytes = found->second->bytes;
    if (frame.offset > bytes || frame.bytes > bytes - frame.offset) {
      return Status(Code::kDataLoss, "bytes beyond the end of a message");
    }
    stream.into = found->second;
  }
  return ok_status();
}

// The frame is complete.
Status LinkChannel::frame_ended(int rank, size_t stream_index, const Frame& frame) {
  Peer& peer = *peers_[rank];
  Stream& stream = peer.streams[stream_index];
  if (frame.type == FrameType::kAbort) {
    if (error_.ok()) {
      const int code = frame.tag;
      const bool known =
          code > static_cast<int>(Code::kOk) && code <= static_cast<int>(Code::kInternal);
      error_ = Status(known ? static_cast<Code>(code) : Code::kAborted,
                      std::string(stream.owned.begin(), stream.owned.end()));
    }
    return ok_status();
  }
  if (frame.type == FrameType::kGoodbye) {
    peer.left = true;
    // After a failure that is the cause of everything, not the leaving.
    if (!error_.ok()) return ok_status();
    left_news_.emplace_back(rank, frame.id);
    peer_left(rank);
    return ok_status();
  }
  if (!error_.ok()) return ok_status();
  switch (frame.type) {
    case FrameType::kEager:
      return take_eager(rank, stream, frame);
    case FrameType::kRequest:
      return take_request(rank, frame);
    case FrameType::kGrant:
      granted(rank, frame.id);
      return ok_status();
    case FrameType::kRefuse:
      refused(rank, frame.id);
      return ok_status();
    case FrameType::kCredit:
      peer.credit = std::min(kEagerCredit, peer.credit + frame.bytes);
      return ok_status();
    case FrameType::kData:
      if (stream.into) {
        stream.into->moved += frame.bytes;
        if (stream.into->moved == stream.into->bytes) {
          incoming_.erase({rank, frame.id});
          finish(stream.into, ok_status());
        }
      }
      return ok_status();
    default:
      return ok_status();
  }
}

// A small message is complete.
Status LinkChannel::take_eager(int rank, Stream& stream, const Frame& frame) {
  if (stream.into) finish(stream.into, ok_status());
  if (!stream.unexpected) return ok_status();
  Unexpected message{rank, frame.tag, frame.id, frame.bytes, false, std::move(stream.owned)};
  // A receive may have been posted while the bytes came in.
  if (const MessagePtr posted = take_posted(rank, frame.tag)) {
    take_unexpected(posted, std::move(message));
  } else {
    unexpected_.push_back(std::move(message));
  }
  return ok_status();
}

Status LinkChannel::take_request(int rank, const Frame& frame) {
  if (const MessagePtr message = take_posted(rank, frame.tag)) {
    if (accept(message, rank, frame.bytes).ok())
      grant(message, rank, frame.id);
    else
      refuse(rank, frame.id);
    return ok_status();
  }
  if (++peers_[rank]->unexpected > kUnexpectedMax) {
    return Status(Code::kDataLoss, "more messages than it may");
  }
  unexpected_.push_back({rank, frame.tag, frame.id, frame.bytes, true, {}});
  return ok_status();
}

// The receiver of one of our messages is ready: its bytes go out over all streams.
void LinkChannel::granted(int rank, uint64_t id) {
  const auto found = asking_.find({rank, id});
  if (found == asking_.end()) {  // cancelled meanwhile
    return refuse(rank, id);
  }
  const MessagePtr message = found->second;
  asking_.erase(found);
  Peer& peer = *peers_[rank];
  --peer.pending;
  if (message->bytes == 0) return finish(message, ok_status());
  for (size_t at = 0; at < message->bytes; at += Frame::kFragmentMax) {
    Frame frame;
    frame.type = FrameType::kData;
    frame.id = id;
    frame.offset = at;
    frame.bytes = std::min(Frame::kFragmentMax, message->bytes - at);
    push(rank, peer.next_stream++ % peer.streams.size(), frame, message->data + at, "", message);
  }
}

// The other side will not go on with `id`: as a receiver because of its size, or as a sender that
// has cancelled.
void LinkChannel::refused(int rank, uint64_t id) {
  if (const auto found = asking_.find({rank, id}); found != asking_.end()) {
    const MessagePtr message = found->second;
    asking_.erase(found);
    --peers_[rank]->pending;
    finish(message,
           Status(Code::kMismatch,
                  "group " + options_.group + ": rank " + std::to_string(name_of(rank)) +
                      " does not receive the message of " + std::to_string(message->bytes) +
                      " bytes with tag " + std::to_string(message->tag) +
                      ": it expects another size, or has cancelled"));
    return;
  }
  if (const auto found = incoming_.find({rank, id}); found != incoming_.end()) {
    const MessagePtr message = found->second;
    incoming_.erase(found);
    finish(message,
           Status(Code::kAborted,
                  "group " + options_.group + ": rank " + std::to_string(name_of(rank)) +
                      " has cancelled its message with tag " + std::to_string(message->tag)));
  }
}

// What waits for `rank` will wait forever.
void LinkChannel::peer_left(int rank) {
  const bool nobody_else =
      std::all_of(peers_.begin(), peers_.end(), [&](const std::unique_ptr<Peer>& peer) {
        return peer.get() == peers_[rank_].get() || peer->left || peer->lost;
      });
  for (const MessagePtr& message : std::set<MessagePtr>(active_)) {
    const bool any = !message->is_send && message->peer == kAnySource;
    const bool under_way = incoming_.count({rank, message->id}) != 0;
    const bool from_it = message->peer == rank && !under_way;
    if (!from_it && !(any && nobody_else)) continue;
    posted_.remove(message);
    if (message->is_send) {
      asking_.erase({rank, message->id});
      release(message, false);
    }
    finish(message, Status(Code::kAborted, "rank " + std::to_string(name_of(rank)) +
                                               " has left group " + options_.group));
  }
}

void LinkChannel::finish(const MessagePtr& message, Status status) {
  if (message->done) return;
  message->done = true;
  message->status = std::move(status);
  message->data = nullptr;
  active_.erase(message);
  message->changed.notify_all();
}

bool LinkChannel::done(const MessagePtr& message) {
  const std::lock_guard lock(mutex_);
  return message->done;
}

// The caller takes its memory back: nothing may touch it after this.
void LinkChannel::cancel(const MessagePtr& message) {
  const std::lock_guard lock(mutex_);
  if (message->done) return;
  finish(message, Status(Code::kAborted, "cancelled"));
  posted_.remove(message);
  if (!message->is_send) {
    if (message->peer != kAnySource) incoming_.erase({message->peer, message->id});
    return;
  }
  if (asking_.erase({message->peer, message->id}) != 0) --peers_[message->peer]->pending;
  // A small message must not vanish from its place in the order.
  if (release(message, message->bytes <= Frame::kEagerMax)) refuse(message->peer, message->id);
}

// Lets go of the caller's memory in the queues: frames that have begun, and small ones if wanted,
// go on from copies. Returns whether others were dropped.
bool LinkChannel::release(const MessagePtr& message, bool keep_small) {
  bool dropped = false;
  for (Stream& stream : peers_[message->peer]->streams) {
    for (size_t i = stream.queue.size(); i-- > 0;) {
      Outgoing& out = stream.queue[i];
      if (out.message != message) continue;
      if (out.done > 0 || keep_small) {
        out.keep_own_copy();
        continue;
      }
      stream.queue.erase(stream.queue.begin() + static_cast<std::ptrdiff_t>(i));
      dropped = true;
    }
  }
  return dropped;
}

std::string LinkChannel::waiting_text(const Message& message) const {
  const std::string what = std::to_string(message.bytes) + " bytes with tag " +
                           std::to_string(message.tag) + " (group " + options_.group + ")";
  if (!message.is_send) {
    const std::string from = message.peer == kAnySource
                                 ? std::string("no rank")
                                 : "rank " + std::to_string(name_of(message.peer));
    return message.peer == kAnySource ? "no rank has sent " + what : from + " has not sent " + what;
  }
  return "rank " + std::to_string(name_of(message.peer)) + " has not received " + what;
}

Status LinkChannel::wait(const MessagePtr& message, Deadline deadline) {
  std::unique_lock lock(mutex_);
  const TimePoint started = Clock::system().now();
  const auto done = [&] { return message->done; };
  const TimePoint patience = started + options_.patience;
  help(lock, message, std::min(patience, deadline.at()));
  if (patience < deadline.at() && !message->changed.wait_until(lock, patience, done)) {
    CONVOY_LOG(Warn) << waiting_text(*message) << " to rank " << name_of(rank_) << " yet";
    help(lock, message, deadline.at());
  }
  if (deadline.at() == TimePoint::max()) {
    message->changed.wait(lock, done);
  } else if (!message->changed.wait_until(lock, deadline.at(), done)) {
    return Status(Code::kDeadlineExceeded, waiting_text(*message) + " in time");
  }
  return message->status;
}

}  // namespace convoy::host
