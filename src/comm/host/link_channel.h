#pragma once

#include "src/comm/host/link_frame.h"
#include "src/comm/host/tcp_loop.h"
#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/comm/host/group.h>

#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <set>
#include <string>
#include <utility>
#include <vector>

namespace convoy::host {

// The message streams of one rank in a link group: point-to-point messages, and news of the group
// (a failure, a rank that leaves, a rank that died). The node's I/O thread reads them all the time,
// so news arrives whatever the group does; senders write as far as the kernel takes it, the I/O
// thread goes on. A thread that waits for a message takes the connections to its peer over
// meanwhile: that saves a hand-over between threads for each message.
//
// Messages up to Frame::kEagerMax are sent at once, as long as the receiver has not got
// kEagerCredit bytes from this rank that no receive has taken; all others ask first and move when
// their receive is there. So unexpected messages need bounded memory, and news never waits behind
// them.
//
// Shared by the group, its transfers and the loop's handlers, because a transfer may outlive the
// group and the last bytes may leave after it. Thread-safe.
class LinkChannel : public std::enable_shared_from_this<LinkChannel> {
 public:
  static constexpr size_t kEagerCredit = size_t{4} << 20;
  static constexpr size_t kPendingMessagesMax = 65536;  // sends to one rank that were not received

  struct Options {
    std::string group;
    std::vector<int> global_ranks;
    Nanos patience{};
  };
  // Called once, without the lock, on whatever thread noticed.
  using OnFailure = std::function<void(const Status& cause)>;
  // Rank `rank` left after `sequence` collectives. Called on the I/O thread, without the lock.
  using OnLeft = std::function<void(int rank, uint64_t sequence)>;

  // `streams[r]`: connected sockets to rank r, at least one; empty for the rank itself.
  LinkChannel(TcpLoop& loop, int rank, std::vector<std::vector<UniqueFd>> streams, Options options,
              OnFailure on_failure, OnLeft on_left);
  ~LinkChannel();
  Status start();

  // As Group's. The transfer keeps `owner` (the node, and with it the loop) alive.
  Result<std::shared_ptr<Transfer>> post_send(const void* data, size_t bytes, int to, int tag,
                                              std::shared_ptr<const void> owner);
  Result<std::shared_ptr<Transfer>> post_recv(void* data, size_t bytes, int from, int tag,
                                              std::shared_ptr<const void> owner);

  // Records the first cause, ends all transfers with it and tells the other ranks. Returns the
  // first cause.
  Status fail(const Status& cause);
  Status error() const;
  // Says goodbye and waits, up to a second, until the others have read all that was sent.
  // Afterwards neither callback runs. Not on the loop's thread.
  void leave(uint64_t sequence);

 private:
  friend class LinkTransfer;
  struct Message;  // one transfer's state
  struct Outgoing;
  struct Stream;
  struct Peer;
  struct Unexpected;
  using MessagePtr = std::shared_ptr<Message>;

  void finish(const MessagePtr& message, Status status);
  void cancel(const MessagePtr& message);
  Status wait(const MessagePtr& message, Deadline deadline);
  bool done(const MessagePtr& message);
  std::string waiting_text(const Message& message) const;
  int name_of(int rank) const { return options_.global_ranks[rank]; }

  // Sockets (link_channel.cc). All with the lock held, but handle().
  void handle(int rank, size_t stream, uint32_t events);
  void push(int rank, size_t stream, const Frame& frame, const char* payload, std::string owned,
            MessagePtr message);
  void write_some(int rank, size_t stream);
  void wrote(Stream& stream, size_t bytes);
  bool read_some(int rank, size_t stream);
  void watch(int rank, const Stream& stream);
  void help(std::unique_lock<std::mutex>& lock, const MessagePtr& message, TimePoint until);
  void serve(std::unique_lock<std::mutex>& lock, const MessagePtr& message, TimePoint until);
  void drop_queues();
  void ended(int rank, size_t stream);
  void lost(int rank, const std::string& why);
  void close_all();
  void close_streams(int rank);

  // Messages (link_messages.cc). All with the lock held.
  Status frame_begins(int rank, size_t stream, const Frame& frame);
  Status frame_ended(int rank, size_t stream, const Frame& frame);
  char* payload_target(Stream& stream, size_t& room);
  MessagePtr take_posted(int rank, int tag);
  Status accept(const MessagePtr& message, int rank, uint64_t bytes);
  void grant(const MessagePtr& message, int rank, uint64_t id);
  void granted(int rank, uint64_t id);
  void refused(int rank, uint64_t id);
  void give_credit(int rank, size_t bytes);
  void refuse(int rank, uint64_t id);
  void peer_left(int rank);
  bool release(const MessagePtr& message, bool keep_small);
  Status take_eager(int rank, Stream& stream, const Frame& frame);
  Status take_request(int rank, const Frame& frame);
  void take_unexpected(const MessagePtr& message, Unexpected&& taken);
  void news(std::unique_lock<std::mutex>& lock);

  TcpLoop& loop_;
  const int rank_;
  const int size_;
  const Options options_;
  const OnFailure on_failure_;
  const OnLeft on_left_;

  mutable std::mutex mutex_;        // guards all that follows
  std::condition_variable closed_;  // a stream was closed
  Status error_;
  bool failure_told_ = false;
  bool left_ = false;
  std::vector<std::pair<int, uint64_t>> left_news_;
  std::vector<std::unique_ptr<Peer>> peers_;
  uint64_t next_id_ = 1;
  std::set<MessagePtr> active_;
  std::list<MessagePtr> posted_;                             // receives without a message
  std::list<Unexpected> unexpected_;                         // messages without a receive
  std::map<std::pair<int, uint64_t>, MessagePtr> asking_;    // sends that wait for a grant
  std::map<std::pair<int, uint64_t>, MessagePtr> incoming_;  // granted receives
};

}  // namespace convoy::host
