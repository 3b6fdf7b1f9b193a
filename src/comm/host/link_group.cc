// Joins the ranks of a group with connections (TCP, or unix sockets between two ranks of one
// machine), and puts the engine (collectives) and the
// channel (messages, news) together into a Group.
#include "src/comm/host/link_group.h"

#include "src/comm/host/link_channel.h"
#include "src/comm/host/link_engine.h"
#include "src/comm/host/link_signature.h"
#include <convoy/trace/sockets.h>

#include <algorithm>
#include <charconv>
#include <condition_variable>
#include <map>
#include <mutex>
#include <numeric>
#include <sstream>
#include <utility>

namespace convoy::host {
namespace {

// What a rank writes into the store for those that connect to it.
struct Invitation {
  TcpAddress address, local;  // for other machines, and for the rank's own
  Hello token;

  std::string encode() const {
    std::ostringstream text;
    text << "2 " << address.to_string() << ' ' << local.to_string() << ' ' << std::hex
         << token.token_high << ' ' << token.token_low;
    return text.str();
  }
  static Result<Invitation> decode(const std::string& text) {
    std::istringstream in(text);
    int version = 0;
    std::string address, local;
    Invitation invitation;
    in >> version >> address >> local >> std::hex >> invitation.token.token_high >>
        invitation.token.token_low;
    if (!in || version != 2) {
      return Status(Code::kMismatch,
                    "the store's record of a rank is of another version: '" + text + "'");
    }
    CONVOY_ASSIGN_OR_RETURN(invitation.address, TcpAddress::parse(address));
    CONVOY_ASSIGN_OR_RETURN(invitation.local, TcpAddress::parse(local));
    return invitation;
  }
};

// The connections of a group while it forms. Half of them carry collectives, half messages.
class Gathering {
 public:
  Gathering(int rank, int size, int streams)
      : rank_(rank), fds_(size), per_peer_(static_cast<size_t>(2 * streams)) {
    for (int r = 0; r < size; ++r) {
      if (r != rank) fds_[r].resize(per_peer_);
    }
  }

  // From the I/O thread: a rank that knows our secret.
  void arrived(const Hello& hello, UniqueFd fd) {
    const std::lock_guard lock(mutex_);
    if (hello.to != static_cast<uint32_t>(rank_) || hello.from >= fds_.size() ||
        hello.stream >= fds_[hello.from].size()) {
      return;
    }
    fds_[hello.from][hello.stream] = std::move(fd);
    changed_.notify_all();
  }
  void connected(int rank, size_t stream, UniqueFd fd) {
    const std::lock_guard lock(mutex_);
    fds_[rank][stream] = std::move(fd);
  }
  // Ranks that have not connected to us when the deadline passes; empty: complete.
  std::vector<int> wait(Deadline deadline) {
    std::unique_lock lock(mutex_);
    while (!missing().empty()) {
      if (deadline.at() == TimePoint::max())
        changed_.wait(lock);
      else if (changed_.wait_until(lock, deadline.at()) == std::cv_status::timeout)
        break;
    }
    return missing();
  }
  // The first or second half of every rank's connections.
  std::vector<std::vector<UniqueFd>> take(bool second) {
    const std::lock_guard lock(mutex_);
    std::vector<std::vector<UniqueFd>> half(fds_.size());
    for (size_t r = 0; r < fds_.size(); ++r) {
      const size_t from = second ? fds_[r].size() / 2 : 0;
      for (size_t s = 0; s < fds_[r].size() / 2; ++s) {
        half[r].push_back(std::move(fds_[r][from + s]));
      }
    }
    return half;
  }
  size_t per_peer() const { return per_peer_; }
  // Before they are taken.
  std::vector<trace::WatchedSocket> watch(const std::vector<int>& global_ranks) {
    const std::lock_guard lock(mutex_);
    std::vector<trace::WatchedSocket> watched;
    for (size_t r = 0; r < fds_.size(); ++r) {
      for (const UniqueFd& fd : fds_[r]) watched.emplace_back(fd.get(), global_ranks[r]);
    }
    return watched;
  }

 private:
  std::vector<int> missing() const {
    std::vector<int> ranks;
    for (size_t r = 0; r < fds_.size(); ++r) {
      if (std::any_of(fds_[r].begin(), fds_[r].end(), [](const auto& fd) { return !fd; })) {
        ranks.push_back(static_cast<int>(r));
      }
    }
    return ranks;
  }

  const int rank_;
  std::mutex mutex_;
  std::condition_variable changed_;
  std::vector<std::vector<UniqueFd>> fds_;
  const size_t per_peer_;
};

class LinkGroup final : public Group {
 public:
  LinkGroup(std::shared_ptr<Node> node, int rank, int size, GroupOptions options)
      : node_(std::move(node)), rank_(rank), size_(size), options_(std::move(options)) {}
  ~LinkGroup() override {
    if (channel_) channel_->leave(sequence());
  }

  Status start(TcpLoop& loop, Gathering& gathering);

  int rank() const override { return rank_; }
  int size() const override { return size_; }
  Status run(std::span<const Collective> ops, Deadline deadline) override;
  Result<std::shared_ptr<Transfer>> post_send(const void* data, size_t bytes, int to,
                                              int tag) override {
    return channel_->post_send(data, bytes, to, tag, node_);
  }
  Result<std::shared_ptr<Transfer>> post_recv(void* data, size_t bytes, int from,
                                              int tag) override {
    return channel_->post_recv(data, bytes, from, tag, node_);
  }
  void abort(const std::string& reason) override {
    (void)channel_->fail(
        Status(Code::kAborted, "rank " + std::to_string(options_.global_ranks[rank_]) +
                                   " aborted group " + options_.name + ": " + reason));
  }
  Status error() const override { return channel_->error(); }
  uint64_t sequence() const override {
    const std::lock_guard lock(mutex_);
    return sequence_;
  }
  bool is_local() const override { return false; }

 private:
  // The running operation can't complete once a rank has left before it.
  Status check_left() const;
  void rank_left(int rank, uint64_t sequence);

  const std::shared_ptr<Node> node_;
  const int rank_;
  const int size_;
  const GroupOptions options_;
  std::unique_ptr<LinkEngine> engine_;
  std::shared_ptr<LinkChannel> channel_;  // shared with transfers and the I/O thread
  std::vector<trace::WatchedSocket> watched_;
  mutable std::mutex mutex_;  // guards what follows
  uint64_t sequence_ = 0;
  bool running_ = false;
  std::map<int, uint64_t> left_;  // ranks that have left, after how many operations
};

Status LinkGroup::start(TcpLoop& loop, Gathering& gathering) {
  watched_ = gathering.watch(options_.global_ranks);
  LinkEngine::Options engine;
  engine.group = options_.name;
  engine.global_ranks = options_.global_ranks;
  engine.patience = options_.patience;
  CONVOY_ASSIGN_OR_RETURN(engine_,
                          LinkEngine::create(rank_, gathering.take(false), std::move(engine)));
  LinkChannel::Options channel{options_.name, options_.global_ranks, options_.patience};
  channel_ = std::make_shared<LinkChannel>(
      loop, rank_, gathering.take(true), std::move(channel),
      [this](const Status&) { engine_->stop(); },
      [this](int rank, uint64_t sequence) { rank_left(rank, sequence); });
  return channel_->start();
}

Status LinkGroup::check_left() const {
  for (const auto& [rank, sequence] : left_) {
    if (sequence >= sequence_) continue;
    return Status(Code::kAborted,
                  "rank " + std::to_string(options_.global_ranks[rank]) + " has left group " +
                      options_.name + " after " + std::to_string(sequence) +
                      " operations; it does not take part in #" + std::to_string(sequence_));
  }
  return ok_status();
}

void LinkGroup::rank_left(int rank, uint64_t sequence) {
  Status cause;
  {
    const std::lock_guard lock(mutex_);
    left_[rank] = sequence;
    if (running_) cause = check_left();
  }
  if (!cause.ok()) (void)channel_->fail(cause);
}

Status LinkGroup::run(std::span<const Collective> ops, Deadline deadline) {
  CONVOY_RETURN_IF_ERROR(channel_->error());
  for (const Collective& op : ops) CONVOY_RETURN_IF_ERROR(check_collective(op, rank_, size_));
  uint64_t sequence = 0;
  Status left;
  {
    const std::lock_guard lock(mutex_);
    sequence = ++sequence_;
    running_ = true;
    left = check_left();
  }
  const Status status = left.ok() ? engine_->run(ops, sequence, deadline) : left;
  {
    const std::lock_guard lock(mutex_);
    running_ = false;
  }
  return status.ok() ? status : channel_->fail(status);
}

}  // namespace

Result<std::unique_ptr<Group>> make_link_group(std::shared_ptr<Node> node, TcpEndpoint& endpoint,
                                               Store& store, int rank, int size,
                                               const std::vector<std::string>& hosts, int streams,
                                               const GroupOptions& given) {
  GroupOptions options = given;
  if (options.global_ranks.empty()) {
    options.global_ranks.resize(size);
    std::iota(options.global_ranks.begin(), options.global_ranks.end(), 0);
  }
  const Deadline deadline = Deadline::after(options.join_timeout);
  CONVOY_RETURN_IF_ERROR(endpoint.start());
  auto gathering = std::make_shared<Gathering>(rank, size, streams);
  Invitation own;
  own.address = endpoint.address();
  own.local = endpoint.local_address();
  own.token = endpoint.expect(
      [gathering](const Hello& hello, UniqueFd fd) { gathering->arrived(hello, std::move(fd)); });
  const auto key = [&](int r) { return options.name + "/link/" + std::to_string(r); };
  const auto join = [&]() -> Status {
    CONVOY_RETURN_IF_ERROR(store.set(key(rank), own.encode()));
    // The higher rank calls the lower one.
    for (int r = 0; r < rank; ++r) {
      const std::string who = "group " + options.name + ": rank " +
                              std::to_string(options.global_ranks[r]) + " (host " + hosts[r] + ")";
      auto text = store.get(key(r), deadline);
      if (!text.ok()) return text.status().with_context(who + " has not come");
      CONVOY_ASSIGN_OR_RETURN(Invitation invitation, Invitation::decode(*text));
      const TcpAddress& door = hosts[r] == hosts[rank] ? invitation.local : invitation.address;
      Hello hello = invitation.token;
      hello.from = static_cast<uint32_t>(rank);
      hello.to = static_cast<uint32_t>(r);
      for (size_t s = 0; s < gathering->per_peer(); ++s) {
        hello.stream = static_cast<uint32_t>(s);
        auto fd = tcp_connect(door, hello, deadline);
        if (!fd.ok()) return fd.status().with_context(who);
        gathering->connected(r, s, std::move(fd).value());
      }
    }
    std::vector<int> missing = gathering->wait(deadline);
    if (missing.empty()) return ok_status();
    for (int& r : missing) r = options.global_ranks[r];
    return Status(Code::kDeadlineExceeded,
                  "group " + options.name + ": ranks " + join_ranks(missing) +
                      " have not connected to rank " + std::to_string(options.global_ranks[rank]) +
                      " at " + own.address.to_string() + " in time");
  };
  const Status joined = join();
  endpoint.forget(own.token);
  CONVOY_RETURN_IF_ERROR(joined);
  auto group = std::make_unique<LinkGroup>(std::move(node), rank, size, std::move(options));
  CONVOY_RETURN_IF_ERROR(group->start(endpoint.loop(), *gathering));
  return std::unique_ptr<Group>(std::move(group));
}

}  // namespace convoy::host
