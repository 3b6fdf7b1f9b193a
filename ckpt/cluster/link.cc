#include "ckpt/cluster/link.h"

#include "ckpt/cluster/encode.h"
#include <convoy/base/log.h>

#include <algorithm>
#include <chrono>
#include <random>
#include <utility>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr auto kCallTimeout = 10s;
constexpr auto kRosterTimeout = 5s;
constexpr auto kPause = 200ms;   // between tries
constexpr int kItemsMax = 64;    // of one report
constexpr auto kPatience = 10s;  // after which a coordinator that can't be reached is reported

uint64_t random_number() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device() | 1;
}

}  // namespace

Link::Link(NodeIdentity self, Agent agent, std::unique_ptr<rpc::Channel> coordinator,
           const ReplicaOptions& replicas, std::function<void(const StepEvent&)> on_event)
    : self_(std::move(self)),
      agent_(std::move(agent)),
      channel_(std::move(coordinator)),
      on_event_(std::move(on_event)) {
  if (replicas.m > 0) {
    ReplicatorOptions options;
    options.node = self_.node;
    options.scheme = {replicas.k, replicas.m};
    options.bandwidth = replicas.bandwidth;
    options.connect = agent_.connect;
    options.roster = [this] { return ask_roster(*channel_, self_.generation, kRosterTimeout); };
    options.done = [this](uint64_t step, const Status& status) { replicated(step, status); };
    replicator_ = std::make_unique<Replicator>(std::move(options));
  }
  follower_ = std::thread([this] { follow_events(); });
  reporter_ = std::thread([this] { send_reports(); });
}

Link::~Link() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  channel_->close();
  replicator_.reset();
  follower_.join();
  reporter_.join();
}

// ---- what the node tells

void Link::report(proto::Item item) {
  {
    const std::lock_guard lock(mutex_);
    items_.push_back(std::move(item));
  }
  changed_.notify_all();
}

void Link::has_rank(uint32_t rank) {
  {
    const std::lock_guard lock(mutex_);
    ranks_.insert(rank);
  }
  proto::Item item;
  item.set_rank(rank);
  report(std::move(item));
}

void Link::want(uint64_t step, Overtake policy, bool everywhere) {
  proto::Item item;
  item.mutable_want()->set_step(step);
  item.mutable_want()->set_policy(static_cast<uint32_t>(policy));
  item.mutable_want()->set_everywhere(everywhere);
  report(std::move(item));
}

void Link::staged(uint64_t step) {
  proto::Item item;
  item.set_staged(step);
  report(std::move(item));
}

void Link::wrote(uint64_t step, const Result<PartSummary>& part,
                 const std::map<std::string, std::string>& notes) {
  proto::Item item;
  proto::Item::Wrote& wrote = *item.mutable_wrote();
  wrote.set_step(step);
  if (part.ok()) {
    set_part(*wrote.mutable_part(), *part);
  } else {
    set_failure(*wrote.mutable_failure(), part.status());
  }
  for (const auto& [key, value] : notes) (*wrote.mutable_notes())[key] = value;
  report(std::move(item));
}

void Link::lost(uint64_t step, const Status& why) {
  proto::Item item;
  item.mutable_lost()->set_step(step);
  set_failure(*item.mutable_lost()->mutable_failure(), why);
  report(std::move(item));
}

void Link::replicated(uint64_t step, const Status& status) {
  proto::Item item;
  item.mutable_replicated()->set_step(step);
  set_failure(*item.mutable_replicated()->mutable_failure(), status);
  report(std::move(item));
}

void Link::replicate(std::shared_ptr<const NodeImage> image) {
  agent_.memory->hold(image, replicator_ == nullptr ? ReplicaScheme{} : replicator_->scheme());
  if (replicator_ != nullptr) replicator_->submit(std::move(image));
}

void Link::settle(uint64_t step) {
  agent_.memory->settle({self_.generation, step});
}

void Link::forget_image(uint64_t step) {
  if (replicator_ != nullptr) replicator_->cancel(step);
  agent_.memory->release({self_.generation, step});
}

// ---- the threads

// False: the link ends.
bool Link::pause(Nanos time) {
  std::unique_lock lock(mutex_);
  return !changed_.wait_for(lock, time, [&] { return ending_; });
}

void Link::tell(StepEvent::Kind kind, const Status& status) {
  StepEvent event;
  event.kind = kind;
  event.status = status;
  on_event_(event);
}

void Link::follow_events() {
  bool told = false;
  TimePoint since = Clock::system().now();
  const auto lose = [&](const Status& status) {
    if (!std::exchange(told, true)) tell(StepEvent::Kind::kLost, status);
  };
  do {
    Status status = join();
    if (status.ok()) {
      if (std::exchange(told, false)) tell(StepEvent::Kind::kBack, {});
      do {
        status = follow_once();
        if (status.ok()) since = Clock::system().now();
        // A connection that breaks is made again; the coordinator knows for how long to wait.
      } while (status.ok() ||
               ((status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded) &&
                Clock::system().now() - since < silence_ && pause(kPause)));
      {
        const std::lock_guard lock(mutex_);
        joined_ = false;
        if (ending_) return;
      }
      // Events may have been missed, and the coordinator may have given this node up.
      const bool silent = status.code() == Code::kDeadlineExceeded;
      lose(Status(silent ? Code::kUnavailable : status.code(),
                  "node " + std::to_string(self_.node) + " lost the coordinator (" +
                      channel_->address() + "): " + status.message()));
      if (status.code() == Code::kFailedPrecondition) return;
    } else if (status.code() != Code::kUnavailable && status.code() != Code::kDeadlineExceeded) {
      return lose(status);  // refused
    } else if (Clock::system().now() - since > kPatience) {
      lose(Status(Code::kUnavailable, "node " + std::to_string(self_.node) +
                                          " does not reach the coordinator, node "
                                          "0's agent: " +
                                          status.message()));
    }
  } while (pause(kPause));
}

Status Link::join() {
  proto::Join join;
  join.set_version(kClusterVersion);
  join.set_job(self_.job);
  join.set_generation(self_.generation);
  join.set_world_size(self_.world_size);
  join.set_node(self_.node);
  join.set_nodes(self_.nodes);
  join.set_domain(self_.domain);
  join.set_address(agent_.address);
  const uint64_t incarnation = random_number();
  join.set_incarnation(incarnation);
  const Result<rpc::Received> answer =
      channel_->call("join", {join.SerializeAsString()}, kCallTimeout);
  if (!answer.ok()) return answer.status();
  proto::Joined joined;
  if (!joined.ParseFromString(answer->header())) {
    return {Code::kInternal, "the coordinator speaks nonsense"};
  }
  {
    const std::lock_guard lock(mutex_);
    // What was reported under an older incarnation has failed.
    if (incarnation_ != 0) {
      items_.clear();
      for (const uint32_t rank : ranks_) items_.emplace_back().set_rank(rank);
    }
    joined_ = true;
    incarnation_ = incarnation;
    next_ = joined.next();
    hold_ = Nanos(joined.hold_ns());
    silence_ = Nanos(joined.silence_ns());
  }
  changed_.notify_all();
  return ok_status();
}

Status Link::follow_once() {
  proto::Follow follow;
  {
    const std::lock_guard lock(mutex_);
    follow.set_generation(self_.generation);
    follow.set_node(self_.node);
    follow.set_incarnation(incarnation_);
    follow.set_next(next_);
  }
  const Result<rpc::Received> answer =
      channel_->call("follow", {follow.SerializeAsString()}, hold_ * 2 + kPause);
  if (!answer.ok()) return answer.status();
  proto::Events events;
  if (!events.ParseFromString(answer->header())) {
    return {Code::kInternal, "the coordinator speaks nonsense"};
  }
  for (const proto::Event& event : events.events()) on_event_(get_event(event));
  const std::lock_guard lock(mutex_);
  next_ += static_cast<uint64_t>(events.events_size());
  return ok_status();
}

void Link::send_reports() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || (joined_ && !items_.empty()); });
    if (ending_) return;
    proto::Report report;
    report.set_generation(self_.generation);
    report.set_node(self_.node);
    report.set_incarnation(incarnation_);
    const size_t count = std::min<size_t>(items_.size(), kItemsMax);
    for (size_t i = 0; i < count; ++i) *report.add_items() = items_[i];
    lock.unlock();
    const Status sent =
        channel_->call("report", {report.SerializeAsString()}, kCallTimeout).status();
    lock.lock();
    if (incarnation_ != report.incarnation()) continue;  // the items are gone
    if (sent.ok() || sent.code() == Code::kInvalidArgument) {
      if (!sent.ok()) {
        CONVOY_LOG(Error) << "checkpoints: a report was refused: " << sent.message();
      }
      items_.erase(items_.begin(), items_.begin() + static_cast<std::ptrdiff_t>(count));
    } else {
      changed_.wait_for(lock, kPause, [&] { return ending_; });
    }
  }
}

}  // namespace convoy::ckpt
