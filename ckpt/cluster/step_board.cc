#include "ckpt/cluster/step_board.h"

#include <algorithm>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr size_t kStepsKept = 1024;  // for reports that come late
constexpr int kNodesNamedMax = 16;

std::string step_text(uint64_t step) {
  return "step " + std::to_string(step);
}

std::string seconds(Nanos time) {
  return std::to_string(std::chrono::duration_cast<std::chrono::seconds>(time).count()) + " s";
}

}  // namespace

StepBoard::StepBoard(const Options& options)
    : options_(options), table_(options.slots, options.nodes) {}

void StepBoard::say(StepEvent::Kind kind, uint64_t step, Status status) {
  StepEvent& event = events_.emplace_back();
  event.kind = kind;
  event.step = step;
  event.status = std::move(status);
}

std::vector<StepEvent> StepBoard::take_events() {
  return std::exchange(events_, {});
}

bool StepBoard::take_claim() {
  return std::exchange(ask_claim_, false);
}

std::optional<uint64_t> StepBoard::take_commit() {
  return std::exchange(commit_, {});
}

bool StepBoard::awaits_part(uint32_t node, uint64_t step) const {
  const auto at = steps_.find(step);
  return at != steps_.end() && at->second.phase == Phase::kWriting && !at->second.ended.has(node);
}

std::string StepBoard::node_text(uint32_t node) const {
  const auto at = ranks_.find(node);
  std::string text = "node " + std::to_string(node);
  if (at == ranks_.end() || at->second.empty()) return text + " (its ranks have not come)";
  const uint32_t first = *at->second.begin(), last = *at->second.rbegin();
  if (first == last) return text + " (rank " + std::to_string(first) + ")";
  if (last - first + 1 == at->second.size()) {
    return text + " (ranks " + std::to_string(first) + "–" + std::to_string(last) + ")";
  }
  text += " (ranks";
  for (const uint32_t rank : at->second) text += " " + std::to_string(rank);
  return text + ")";
}

std::string StepBoard::missing(const NodeSet& there) const {
  std::string text;
  int count = 0;
  for (uint32_t node = 0; node < options_.nodes; ++node) {
    if (there.has(node)) continue;
    if (++count <= kNodesNamedMax) text += (text.empty() ? "" : ", ") + node_text(node);
  }
  if (count > kNodesNamedMax) text += " and " + std::to_string(count - kNodesNamedMax) + " more";
  return text;
}

// ---- coming and going

void StepBoard::joined(uint32_t node) {
  gone(node, "its agent was started again");
  away_.erase(node);
}

void StepBoard::gone(uint32_t node, const std::string& why) {
  if (!away_.try_emplace(node, why).second) return;
  const Status status(Code::kAborted, node_text(node) + " has gone: " + why);
  for (auto& [step, at] : steps_) {
    end_replicas(step, status);
    if (at.phase == Phase::kStaging || at.phase == Phase::kWaiting ||
        (at.phase == Phase::kWriting && !at.ended.has(node))) {
      fail(step, status);
    }
    // Also of a step that is over: a node that has gone needs no slot.
    if (at.ended.add(node)) release(step, at);
  }
}

// ---- staging

StepBoard::Step& StepBoard::add_step(uint64_t step, Phase phase, TimePoint now) {
  Step& at = steps_[step];
  at.phase = phase;
  at.staged = at.ended = at.replicas = NodeSet(options_.nodes);
  at.since = now;
  std::erase_if(wants_, [&](const Want& w) { return w.step == step; });
  forget();
  return at;
}

void StepBoard::want(uint64_t step, Overtake policy, TimePoint now, bool everywhere) {
  if (steps_.contains(step)) return;  // all have been told
  if (!away_.empty()) {
    add_step(step, Phase::kOver, now);
    const auto& [node, why] = *away_.begin();
    return say(StepEvent::Kind::kFailed, step,
               {Code::kUnavailable, step_text(step) + " can't be saved: " + node_text(node) +
                                        " has gone (" + why + ")"});
  }
  const SnapshotTable::Decision decision = table_.acquire(key(step), policy);
  if (decision.dropped) {
    const uint64_t dropped = decision.dropped->step;
    std::erase(queue_, dropped);
    steps_[dropped].phase = Phase::kOver;
    say(StepEvent::Kind::kFailed, dropped,
        {Code::kAborted, step_text(dropped) + " was replaced by the save of " + step_text(step)});
    events_.back().dropped = true;
  }
  if (decision.verdict == SnapshotTable::Verdict::kBusy) {
    if (std::ranges::find(wants_, step, &Want::step) == wants_.end()) {
      wants_.push_back({step, policy, everywhere});
    }
  } else if (decision.verdict == SnapshotTable::Verdict::kSkipped) {
    add_step(step, Phase::kOver, now);
    say(StepEvent::Kind::kSkipped, step, {Code::kAborted, decision.why});
  } else {
    add_step(step, Phase::kStaging, now).everywhere = everywhere;
    say(StepEvent::Kind::kGranted, step);
    events_.back().slot = decision.slot;
  }
}

void StepBoard::staged(uint32_t node, uint64_t step, TimePoint now) {
  const auto at = steps_.find(step);
  if (at == steps_.end() || at->second.phase != Phase::kStaging) return;
  if (at->second.staged.add(node) && table_.stage(key(step), node)) whole(step, now);
}

void StepBoard::whole(uint64_t step, TimePoint now) {
  Step& at = steps_[step];
  const bool is_turn = whole_steps_++ % std::max<uint64_t>(1, options_.disk_every) == 0;
  const bool to_disk = options_.disk && (is_turn || at.everywhere);
  say(StepEvent::Kind::kWhole, step);
  events_.back().to_disk = to_disk;
  if (options_.replicate) {
    at.replicating = true;
    at.replicas_since = now;
    table_.pin(key(step));
  }
  at.phase = to_disk ? Phase::kWaiting : Phase::kOver;
  if (to_disk) {
    table_.queue(key(step));
    queue_.push_back(step);
    write_next(now);
  }
  retry(now);
}

void StepBoard::lost(uint64_t step, const Status& why) {
  const auto at = steps_.find(step);
  if (at == steps_.end()) {
    add_step(step, Phase::kOver, {});
    say(StepEvent::Kind::kFailed, step, why);
  } else if (at->second.phase == Phase::kStaging) {
    fail(step, why);
  }
}

// ---- the disk

void StepBoard::write_next(TimePoint now) {
  if (writing_ || queue_.empty()) return;
  if (!claim_) {
    ask_claim_ = ask_claim_ || !claiming_;
    claiming_ = true;
    return;
  }
  writing_ = queue_.front();
  queue_.pop_front();
  Step& at = steps_[*writing_];
  at.phase = Phase::kWriting;
  at.since = now;
  table_.use(key(*writing_));
  say(StepEvent::Kind::kWrite, *writing_);
  events_.back().claim = claim_->claim;
  events_.back().who = claim_->who;
}

void StepBoard::claimed(const Result<CoordinatorDisk::Claimed>& claim, TimePoint now) {
  claiming_ = false;
  if (claim.ok()) {
    claim_ = claim.value();
  } else if (!queue_.empty()) {
    fail(queue_.front(), claim.status());
  }
  write_next(now);
}

void StepBoard::wrote(uint32_t node, uint64_t step, const Status& status, TimePoint now) {
  const auto found = steps_.find(step);
  if (found == steps_.end() || found->second.ended.has(node)) return;
  Step& at = found->second;
  if (at.phase == Phase::kWriting && !status.ok()) {
    fail(step, status.with_context(node_text(node)));
  }
  at.ended.add(node);
  if (at.phase == Phase::kWriting && at.ended.full()) {
    at.phase = Phase::kCommitting;
    commit_ = step;
  } else {
    release(step, at);
  }
  write_next(now);
  retry(now);
}

void StepBoard::committed(uint64_t step, const Status& status, TimePoint now) {
  const auto found = steps_.find(step);
  if (found == steps_.end() || found->second.phase != Phase::kCommitting) return;
  found->second.phase = Phase::kOver;
  writing_.reset();
  say(status.ok() ? StepEvent::Kind::kCommitted : StepEvent::Kind::kFailed, step, status);
  // The folder is another's by now: the next step finds out who has it.
  if (status.code() == Code::kFailedPrecondition) claim_.reset();
  release(step, found->second);
  write_next(now);
  retry(now);
}

// ---- the end of a step

void StepBoard::fail(uint64_t step, const Status& why) {
  Step& at = steps_[step];
  if (at.phase == Phase::kOver) return;
  const bool dropped = at.phase == Phase::kStaging;
  if (dropped) table_.drop(key(step));
  if (at.phase == Phase::kWaiting) {
    std::erase(queue_, step);
    table_.done(key(step));
  }
  if (writing_ == step) writing_.reset();
  at.phase = Phase::kOver;
  say(StepEvent::Kind::kFailed, step, why);
  events_.back().dropped = dropped;
}

// Once nobody reads the slot any more.
void StepBoard::release(uint64_t step, Step& at) {
  if (at.phase == Phase::kOver && at.ended.full()) table_.done(key(step));
}

void StepBoard::replicated(uint32_t node, uint64_t step, const Status& status) {
  const auto found = steps_.find(step);
  if (found == steps_.end() || !found->second.replicating) return;
  if (!status.ok()) return end_replicas(step, status.with_context(node_text(node)));
  if (found->second.replicas.add(node) && found->second.replicas.full()) end_replicas(step, {});
}

// The newest replicated step stays in its owners' memory as well, until there is a newer one: what
// a node has itself it does not give to others.
void StepBoard::end_replicas(uint64_t step, const Status& status) {
  Step& at = steps_[step];
  if (!std::exchange(at.replicating, false)) return;
  if (status.ok()) {
    say(StepEvent::Kind::kReplicated, step);
    if (replicated_) table_.unpin(key(*replicated_));
    replicated_ = step;
  } else {
    say(StepEvent::Kind::kNotReplicated, step, status);
    table_.unpin(key(step), /*surplus=*/replicated_.has_value());
  }
}

void StepBoard::tick(TimePoint now) {
  for (auto& [step, at] : steps_) {
    const std::string late = " within " + seconds(options_.timeout) + ": ";
    if (at.phase == Phase::kStaging && now - at.since > options_.timeout) {
      fail(step, {Code::kDeadlineExceeded,
                  step_text(step) + " was not saved" + late + missing(at.staged)});
    }
    if (at.phase == Phase::kWriting && now - at.since > options_.timeout) {
      fail(step, {Code::kDeadlineExceeded,
                  step_text(step) + " was not written" + late + missing(at.ended)});
    }
    if (at.replicating && now - at.replicas_since > options_.timeout) {
      end_replicas(step, {Code::kDeadlineExceeded, step_text(step) + " did not reach its peers" +
                                                       late + missing(at.replicas)});
    }
  }
  write_next(now);
  retry(now);
}

void StepBoard::retry(TimePoint now) {
  const std::deque<Want> wants = wants_;
  for (const Want& want_it : wants) {
    want(want_it.step, want_it.policy, now, want_it.everywhere);
  }
}

void StepBoard::forget() {
  for (auto at = steps_.begin(); at != steps_.end() && steps_.size() > kStepsKept;) {
    const bool over = at->second.phase == Phase::kOver && !table_.is_known(key(at->first)) &&
                      std::next(at) != steps_.end();
    at = over ? steps_.erase(at) : std::next(at);
  }
}

}  // namespace convoy::ckpt
