#include "ckpt/cluster/coordinator.h"

#include "ckpt/cluster/encode.h"
#include <convoy/base/fault.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <chrono>
#include <iterator>
#include <unistd.h>
#include <utility>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr size_t kLogMax = 8192;  // events that are kept for nodes that are behind
constexpr auto kWatchEvery = 100ms;
constexpr int kNamedMax = 16;  // nodes in a message

TimePoint now() {
  return Clock::system().now();
}

template <class Message>
bool parse(const rpc::Call& call, Message& message) {
  return message.ParseFromString(call.request().header());
}

Status nonsense() {
  return {Code::kInvalidArgument, "a message that the coordinator does not understand"};
}

}  // namespace

std::shared_ptr<Coordinator> Coordinator::create(CoordinatorOptions options) {
  std::shared_ptr<Coordinator> made(new Coordinator(std::move(options)));
  made->thread_ = std::thread([raw = made.get()] { raw->main(); });
  return made;
}

Coordinator::Coordinator(CoordinatorOptions options)
    : options_(std::move(options)),
      board_({.nodes = options_.self.nodes,
              .disk = static_cast<bool>(options_.disk.claim),
              .disk_every = options_.disk_every,
              .replicate = options_.replicate,
              .timeout = options_.step_timeout}),
      nodes_(options_.self.nodes) {}

Coordinator::~Coordinator() {
  end();
}

void Coordinator::end() {
  std::vector<std::shared_ptr<rpc::Call>> waiting;
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    for (Node& node : nodes_) {
      if (node.waiting != nullptr) waiting.push_back(std::move(node.waiting));
    }
  }
  changed_.notify_all();
  for (const auto& call : waiting) {
    call->finish(Status(Code::kAborted, "this generation's checkpoints are over"));
  }
  if (thread_.joinable()) thread_.join();
}

Coordinator::Counts Coordinator::counts() const {
  const std::lock_guard lock(mutex_);
  return counts_;
}

void Coordinator::finish(const std::shared_ptr<rpc::Call>& call, Result<rpc::Message> answer) {
  if (answer.ok()) counts_.bytes_out += answer->header.size();
  call->finish(std::move(answer));
}

// ---- who is there

Status Coordinator::check(const NodeIdentity& node) const {
  const NodeIdentity& self = options_.self;
  if (node.job != self.job || node.generation < self.generation) {
    return {Code::kFailedPrecondition,
            "node " + std::to_string(node.node) + " of job '" + node.job + "' generation " +
                std::to_string(node.generation) + " is refused: this is job '" + self.job +
                "' generation " + std::to_string(self.generation)};
  }
  if (node.generation > self.generation) {
    return {Code::kUnavailable, "generation " + std::to_string(node.generation) +
                                    " has not come to the coordinator yet"};
  }
  if (node.nodes != self.nodes || node.world_size != self.world_size || node.node >= self.nodes) {
    return {Code::kMismatch,
            "node " + std::to_string(node.node) + " says " + std::to_string(node.nodes) +
                " nodes with " + std::to_string(node.world_size) + " ranks, node 0 says " +
                std::to_string(self.nodes) + " with " + std::to_string(self.world_size)};
  }
  return ok_status();
}

Status Coordinator::check_member(uint64_t generation, uint32_t node, uint64_t incarnation) const {
  if (ending_ || generation != options_.self.generation) {
    return {Code::kFailedPrecondition, "generation " + std::to_string(generation) +
                                           " is over: this is generation " +
                                           std::to_string(options_.self.generation)};
  }
  if (node < nodes_.size() && nodes_[node].joined && nodes_[node].incarnation == incarnation) {
    return ok_status();
  }
  return {Code::kNotFound, "node " + std::to_string(node) + " must join (again)"};
}

void Coordinator::join(const std::shared_ptr<rpc::Call>& call) {
  proto::Join join;
  if (!parse(*call, join)) return call->finish(nonsense());
  if (join.version() != kClusterVersion) {
    return call->finish(Status(Code::kFailedPrecondition, "the agents of node 0 and node " +
                                                              std::to_string(join.node()) +
                                                              " are of different Convoys"));
  }
  const Status fits = check(
      {join.job(), join.generation(), join.world_size(), join.node(), join.nodes(), join.domain()});
  if (!fits.ok()) return call->finish(fits);
  std::unique_lock lock(mutex_);
  if (ending_) return call->finish(Status(Code::kUnavailable, "the coordinator is ending"));
  ++counts_.calls;
  Node& node = nodes_[join.node()];
  // One that comes late must hear of the steps that others have begun; one that comes back has
  // nothing of them, and they have failed.
  const bool first = node.incarnation == 0 && log_begin_ == 0;
  if (!node.joined || node.incarnation != join.incarnation()) {
    if (node.waiting != nullptr) {
      node.waiting->finish(Status(Code::kFailedPrecondition, "another agent took this node over"));
      node.waiting = nullptr;
    }
    if (!first) board_.joined(join.node());
    node.joined = true;
    node.incarnation = join.incarnation();
    node.address = join.address();
    node.domain = join.domain();
  }
  node.seen = now();
  pump(lock);
  proto::Joined answer;
  answer.set_next(first ? 0 : log_begin_ + log_.size());
  answer.set_hold_ns(static_cast<uint64_t>((options_.peer_timeout / 3).count()));
  answer.set_silence_ns(static_cast<uint64_t>(options_.peer_timeout.count()));
  finish(call, rpc::Message{answer.SerializeAsString()});
}

// ---- reports

void Coordinator::report(const std::shared_ptr<rpc::Call>& call) {
  proto::Report report;
  if (!parse(*call, report)) return call->finish(nonsense());
  // The summaries are large, so they are made before the lock is taken.
  std::vector<std::unique_ptr<PartSummary>> parts(static_cast<size_t>(report.items_size()));
  for (int i = 0; i < report.items_size(); ++i) {
    if (!report.items(i).has_wrote() || !report.items(i).wrote().has_part()) continue;
    Result<PartSummary> part = get_part(report.items(i).wrote().part());
    if (!part.ok()) return call->finish(part.status());
    if (part->ref.node != report.node() || part->step != report.items(i).wrote().step()) {
      return call->finish(Status(Code::kInvalidArgument, "the summary of another part"));
    }
    parts[static_cast<size_t>(i)] = std::make_unique<PartSummary>(std::move(part).value());
  }
  std::unique_lock lock(mutex_);
  const Status member = check_member(report.generation(), report.node(), report.incarnation());
  if (!member.ok()) return call->finish(member);
  ++counts_.calls;
  counts_.bytes_in += call->request().header().size();
  nodes_[report.node()].seen = now();
  for (int i = 0; i < report.items_size(); ++i) {
    take(report.items(i), report.node(), std::move(parts[static_cast<size_t>(i)]));
  }
  pump(lock);
  finish(call, rpc::Message{});
}

void Coordinator::take(const proto::Item& item, uint32_t node, std::unique_ptr<PartSummary> part) {
  const TimePoint at = now();
  switch (item.what_case()) {
    case proto::Item::kRank:
      return board_.has_rank(node, item.rank());
    case proto::Item::kWant:
      return board_.want(item.want().step(),
                         static_cast<Overtake>(std::min<uint32_t>(item.want().policy(), 2)), at,
                         item.want().everywhere());
    case proto::Item::kStaged:
      fault::die_at("ckpt.coordinator.staged.kill");
      return board_.staged(node, item.staged(), at);
    case proto::Item::kWrote: {
      const uint64_t step = item.wrote().step();
      const Status status = get_failure(item.wrote().failure());
      fault::die_at("ckpt.coordinator.wrote.kill");
      if (part != nullptr && board_.awaits_part(node, step)) {
        Written& written =
            written_.try_emplace(step, Written{CommitBuilder(commit_head(step)), {}, {}, {}})
                .first->second;
        if (written.status.ok()) written.status = written.builder.add(*part);
        std::ranges::move(part->files, std::back_inserter(written.files));
        for (const auto& [key, value] : item.wrote().notes()) written.notes[key] = value;
      }
      return board_.wrote(node, step, status, at);
    }
    case proto::Item::kLost:
      return board_.lost(item.lost().step(), get_failure(item.lost().failure()));
    case proto::Item::kReplicated:
      return board_.replicated(node, item.replicated().step(),
                               get_failure(item.replicated().failure()));
    case proto::Item::WHAT_NOT_SET:
      return;
  }
}

// ---- events

// Carries out what the board has decided.
void Coordinator::pump(std::unique_lock<std::mutex>& /*lock*/) {
  const std::vector<StepEvent> events = board_.take_events();
  for (const StepEvent& event : events) {
    proto::Events one;
    set_event(*one.add_events(), event);
    log_.push_back(one.SerializeAsString());
    if (event.kind == StepEvent::Kind::kFailed || event.kind == StepEvent::Kind::kCommitted) {
      written_.erase(event.step);
    }
  }
  while (log_.size() > kLogMax) {
    log_.pop_front();
    ++log_begin_;
  }
  if (board_.take_claim()) {
    options_.disk.claim([weak = weak_from_this()](const Result<CoordinatorDisk::Claimed>& claim) {
      const std::shared_ptr<Coordinator> self = weak.lock();
      if (self == nullptr) return;
      std::unique_lock lock(self->mutex_);
      self->board_.claimed(claim, now());
      self->pump(lock);
    });
  }
  if (const auto step = board_.take_commit()) {
    to_commit_ = step;
    changed_.notify_all();
  }
  if (events.empty()) return;
  // Nodes that are equally far get equal answers.
  std::map<uint64_t, std::string> answers;
  for (Node& node : nodes_) {
    if (node.waiting == nullptr || node.next >= log_begin_ + log_.size()) continue;
    const auto [answer, is_new] = answers.try_emplace(node.next);
    if (is_new) answer->second = events_from(node.next);
    node.seen = now();
    finish(std::exchange(node.waiting, nullptr), rpc::Message{answer->second});
  }
}

// Encoded messages one behind the other are one message.
std::string Coordinator::events_from(uint64_t next) const {
  std::string all;
  for (uint64_t i = next - log_begin_; i < log_.size(); ++i) all += log_[i];
  return all;
}

void Coordinator::follow(const std::shared_ptr<rpc::Call>& call) {
  proto::Follow follow;
  if (!parse(*call, follow) || follow.node() >= options_.self.nodes) {
    return call->finish(nonsense());
  }
  call->on_cancel([weak = weak_from_this(), n = follow.node(), raw = call.get()] {
    const std::shared_ptr<Coordinator> self = weak.lock();
    if (self == nullptr) return;
    const std::lock_guard lock(self->mutex_);
    Node& node = self->nodes_[n];
    if (node.waiting.get() == raw) node.waiting = nullptr;
  });
  const std::lock_guard lock(mutex_);
  const Status member = check_member(follow.generation(), follow.node(), follow.incarnation());
  if (!member.ok()) return call->finish(member);
  ++counts_.calls;
  counts_.bytes_in += call->request().header().size();
  Node& node = nodes_[follow.node()];
  node.seen = now();
  node.next = follow.next();
  if (node.next < log_begin_ || node.next > log_begin_ + log_.size()) {
    return call->finish(Status(Code::kNotFound, "this node is too far behind: it must join again"));
  }
  if (node.waiting != nullptr) finish(std::exchange(node.waiting, nullptr), rpc::Message{});
  if (node.next < log_begin_ + log_.size()) {
    return finish(call, rpc::Message{events_from(node.next)});
  }
  if (!call->cancelled()) node.waiting = call;
}

void Coordinator::roster(const std::shared_ptr<rpc::Call>& call) {
  proto::AskRoster ask;
  if (!parse(*call, ask)) return call->finish(nonsense());
  const std::lock_guard lock(mutex_);
  ++counts_.calls;
  if (ask.generation() != options_.self.generation) {
    return call->finish(Status(Code::kUnavailable,
                               "generation " + std::to_string(ask.generation()) + " is not here"));
  }
  proto::Roster roster;
  std::string missing;
  int count = 0;
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    if (!nodes_[i].joined && ++count <= kNamedMax) missing += " " + std::to_string(i);
    roster.add_address(nodes_[i].address);
    roster.add_domain(nodes_[i].domain);
  }
  if (count > 0) {
    return call->finish(
        Status(Code::kUnavailable, std::to_string(count) + " nodes have not come yet:" + missing));
  }
  finish(call, rpc::Message{roster.SerializeAsString()});
}

// ---- the thread

void Coordinator::main() {
  std::unique_lock lock(mutex_);
  while (!ending_) {
    changed_.wait_for(lock, kWatchEvery, [&] { return ending_ || to_commit_.has_value(); });
    if (ending_) return;
    if (const auto step = std::exchange(to_commit_, {})) commit(*step, lock);
    watch();
    pump(lock);
  }
}

void Coordinator::watch() {
  const TimePoint at = now();
  for (uint32_t i = 0; i < nodes_.size(); ++i) {
    Node& node = nodes_[i];
    if (!node.joined) continue;
    const Nanos silent = at - node.seen;
    if (node.waiting != nullptr && silent > options_.peer_timeout / 3) {
      node.seen = at;
      finish(std::exchange(node.waiting, nullptr), rpc::Message{});
    } else if (node.waiting == nullptr && silent > options_.peer_timeout) {
      node.joined = false;
      const auto seconds = std::chrono::duration_cast<std::chrono::milliseconds>(silent).count();
      const std::string why = "its agent (" + node.address.substr(0, node.address.find('/')) +
                              ") has been silent for " + std::to_string(seconds) + " ms";
      CONVOY_LOG(Error) << "checkpoints: " << board_.node_text(i) << " has gone: " << why;
      board_.gone(i, why);
    }
  }
  board_.tick(at);
}

Commit Coordinator::commit_head(uint64_t step) const {
  Commit head;
  head.step = step;
  head.world_size = options_.self.world_size;
  head.mesh = options_.mesh;
  return head;
}

void Coordinator::commit(uint64_t step, std::unique_lock<std::mutex>& lock) {
  auto node = written_.extract(step);
  if (node.empty()) return;
  Written written = std::move(node.mapped());
  lock.unlock();
  const auto begin = std::chrono::steady_clock::now();
  const auto done = [weak = weak_from_this(), step](const Status& outcome) {
    const std::shared_ptr<Coordinator> self = weak.lock();
    if (self == nullptr) return;
    std::unique_lock relock(self->mutex_);
    self->board_.committed(step, outcome, now());
    self->pump(relock);
  };
  std::optional<Commit> commit;
  if (written.status.ok()) {
    commit = std::move(written.builder).finish();
    commit->notes = std::move(written.notes);
  }
  const std::chrono::duration<double> took = std::chrono::steady_clock::now() - begin;
  fault::die_at("ckpt.coordinator.commit.kill");
  if (commit) {
    options_.disk.commit(std::move(*commit), std::move(written.files), done);
  } else {
    done(written.status);
  }
  lock.lock();
  counts_.build_s += took.count();
}

}  // namespace convoy::ckpt
