// Joins an operation's records, which may lie in several rings and come in any order, and pairs the
// begins and ends of each thread's spans. Nothing in a segment is believed: maps have limits.
#include "trace/collect/rank_drain.h"

#include <algorithm>
#include <bit>

namespace convoy::trace {
namespace {

constexpr size_t kReadMax = 1 << 11;     // of one ring in one turn; the rest stays for the next
constexpr size_t kPendingMax = 1 << 16;  // operations of a rank
constexpr size_t kOpenMax = 256;         // spans of a thread
constexpr size_t kChannelsMax = 1 << 16;
constexpr size_t kCalledMax = 1 << 16;      // pairs of texts that are remembered
constexpr size_t kSignaturesMax = 1 << 20;  // of a node
constexpr size_t kPendingTold = 64;         // RankState::pending
// An operation whose first record has not come by then was overwritten: rings are read one behind
// the other, so that a later record may be seen a turn earlier, not more.
constexpr uint64_t kTurnsOfOrphan = 2;
constexpr uint32_t kRanksMax = 1 << 20;  // what a stream takes
constexpr int kUnevenBits = 7;           // that are kept of sizes that differ from call to call

// Root or peer of an operation, peer of a counter.
int32_t rank_in(const Record& record) {
  return record.extra <= kRanksMax ? static_cast<int32_t>(record.extra) - 1 : -1;
}

// To 7 bits, rounded down: else each call would have a signature of its own.
uint64_t rounded(uint64_t bytes) {
  const int drop = std::max(0, static_cast<int>(std::bit_width(bytes)) - kUnevenBits);
  return bytes >> drop << drop;
}

}  // namespace

size_t RankDrain::KeyHash::operator()(const Key& key) const {
  uint64_t h = uint64_t{key.sequence} << 32 | uint64_t{key.group} << 16 | key.name;
  h = (h ^ uint64_t{key.extra} << 20) * 0x9e3779b97f4a7c15;
  return h ^ h >> 32;
}

RankDrain::RankDrain(std::shared_ptr<Segment> segment, Registry& registry)
    : segment_(std::move(segment)), registry_(registry), open_(segment_->rings()) {
  for (uint32_t ring = 0; ring < segment_->rings(); ++ring) readers_.emplace_back(segment_, ring);
}

// Of the old one nothing is told any more: what had not ended was given up.
void RankDrain::follow_generation() {
  const uint64_t generation = segment_->generation();
  if (generation == generation_) return;
  generation_ = generation;
  since_ = segment_->generation_since();
  for (auto& spans : open_) spans.clear();
  pending_.clear();
  ready_.clear();
  completed_.clear();
  progress_.clear();
}

bool RankDrain::drain(Batch& batch, bool has_ended) {
  batch.rank = static_cast<uint32_t>(segment_->rank());
  follow_generation();
  batch.generation = generation_;
  // It begins just now: two anchors tell the clock's rate, and no record is older than the second.
  std::vector<Anchor> anchors = segment_->anchors();
  if (anchors.size() < (has_ended ? 1 : 2)) return false;
  const TimeScale times(std::move(anchors));
  const int64_t begin = has_ended ? INT64_MAX : times.monotonic_ns(take_anchor().ticks);
  bool more = false;
  for (uint32_t ring = 0; ring < readers_.size(); ++ring) {
    records_.clear();
    const uint64_t lost = readers_[ring].lost();
    more |= readers_[ring].read(records_, kReadMax) == kReadMax;
    if (readers_[ring].lost() != lost) open_[ring].clear();  // their ends may be among them
    for (const Record& r : records_) {
      if (r.time < since_ && r.kind != Kind::kThread) continue;
      // A broken process may have written anything: no sum with it overflows.
      const int64_t time = std::clamp<int64_t>(times.monotonic_ns(r.time), 0, INT64_MAX / 2);
      switch (r.kind) {
        case Kind::kThread:
          open_[ring].clear();
          break;
        case Kind::kBegin:
          if (open_[ring].size() >= kOpenMax) break;
          open_[ring].push_back({r.name, {name_of(r.name), ring, time, 0, r.value}});
          break;
        case Kind::kEnd:
          take_end(r, time, ring, batch);
          break;
        case Kind::kCounter:
          batch.counters.push_back({name_of(r.name), rank_in(r), time, r.value});
          break;
        case Kind::kIssued:
        case Kind::kStarted:
        case Kind::kCompleted:
          take_operation(r, time);
          break;
        case Kind::kInstant:
          break;
      }
    }
  }
  // Of a turn that left something unread nobody knows what is missing.
  if (!more) {
    take_completed(begin, batch);
    forget_hopeless(lost());
    ++turn_;
  }
  return more;
}

// All records of operations that were over before this turn began have been seen.
void RankDrain::take_completed(int64_t begin, Batch& batch) {
  const size_t first = batch.operations.size();
  std::erase_if(ready_, [&](const Key& key) {
    const auto at = pending_.find(key);
    if (at == pending_.end()) return true;
    if (at->second.operation.completed >= begin) return false;
    batch.operations.push_back(at->second.operation);
    pending_.erase(at);
    return true;
  });
  std::ranges::sort(batch.operations.begin() + static_cast<long>(first), batch.operations.end(), {},
                    &Operation::issued);
}

void RankDrain::take_end(const Record& record, int64_t time, uint32_t ring, Batch& batch) {
  std::vector<OpenSpan>& open = open_[ring];
  // Those within it, which have no end, are thrown away with it.
  const auto begin = std::find_if(open.rbegin(), open.rend(),
                                  [&](const OpenSpan& s) { return s.id == record.name; });
  if (begin == open.rend()) return;  // begun before the oldest record
  batch.spans.push_back(begin->event);
  batch.spans.back().end = std::max(time, begin->event.begin + 1);
  open.erase(begin.base() - 1, open.end());
}

void RankDrain::take_operation(const Record& record, int64_t time) {
  const Key key{record.group, record.name, record.sequence, record.extra};
  const Called& called = called_by(record.group, record.name);
  advance(key, called, record);
  auto at = pending_.find(key);
  if (at == pending_.end()) {
    if (pending_.size() >= kPendingMax) {
      ++dropped_;
      return;
    }
    at = pending_.emplace(key, Pending{{}, false, false, turn_}).first;
    at->second.operation.sequence = record.sequence;
  }
  Pending& pending = at->second;
  Operation& operation = pending.operation;
  if (record.kind == Kind::kIssued) {
    if (registry_.signatures().size() >= kSignaturesMax) {
      ++dropped_;
      pending_.erase(at);
      return;
    }
    operation.signature = signature_of(called, record);
    operation.issued = time;
    pending.is_issued = true;
  } else if (record.kind == Kind::kStarted) {
    operation.started = time;
  } else {
    operation.completed = time;
    const auto ran = static_cast<int64_t>(std::min<uint64_t>(record.value, INT64_MAX / 2));
    if (ran > 0) operation.started = time - ran;
    pending.is_completed = true;
  }
  if (pending.is_issued && pending.is_completed) ready_.push_back(key);
}

// What the rank has reached, also where a record of the operation was overwritten.
void RankDrain::advance(const Key& key, const Called& called, const Record& record) {
  if (record.kind == Kind::kCompleted) {
    const Key channel = called.is_message ? Key{key.group, key.name, 0, key.extra} : Key{key.group};
    if (completed_.size() < kChannelsMax || completed_.contains(channel)) {
      uint32_t& last = completed_[channel];
      last = std::max(last, key.sequence);
    }
  }
  if (called.is_message) return;
  GroupProgress& progress = progress_[key.group];
  progress.group = called.group;
  uint32_t& last = record.kind == Kind::kIssued    ? progress.issued
                   : record.kind == Kind::kStarted ? progress.started
                                                   : progress.completed;
  last = std::max(last, key.sequence);
  progress.issued = std::max({progress.issued, progress.started, progress.completed});
}

// Operations of which a record was overwritten: they would be pending for good.
void RankDrain::forget_hopeless(uint64_t lost) {
  if (lost != lost_before_) {
    lost_before_ = lost;
    lost_turn_ = turn_;
  }
  std::erase_if(pending_, [&](const auto& entry) {
    const auto& [key, pending] = entry;
    if (!pending.is_issued) return pending.turn + kTurnsOfOrphan <= turn_;
    if (pending.is_completed || pending.turn > lost_turn_) return false;
    const Key channel = called_by(key.group, key.name).is_message
                            ? Key{key.group, key.name, 0, key.extra}
                            : Key{key.group};
    const auto last = completed_.find(channel);
    return last != completed_.end() && last->second > key.sequence;
  });
}

const RankDrain::Called& RankDrain::called_by(uint16_t group, uint16_t name) {
  if (called_.size() >= kCalledMax) called_.clear();
  const auto [at, is_new] = called_.try_emplace(uint32_t{group} << 16 | name);
  if (is_new) {
    Called& called = at->second;
    called.kind = parse_operation(segment_->name(name));
    called.group = registry_.group(parse_group(segment_->name(group)));
    called.is_message = is_message(called.kind.operation);
  }
  return at->second;
}

uint32_t RankDrain::signature_of(const Called& called, const Record& record) {
  Signature signature;
  signature.group = called.group;
  signature.operation = called.kind.operation;
  signature.dtype = called.kind.dtype;
  signature.reduction = called.kind.reduction;
  signature.uneven = called.kind.uneven;
  signature.bytes = called.kind.uneven ? rounded(record.value) : record.value;
  (called.is_message ? signature.peer : signature.root) = rank_in(record);
  return registry_.signature(signature);
}

uint32_t RankDrain::name_of(uint16_t id) {
  const auto [at, is_new] = names_.try_emplace(id);
  if (is_new) at->second = registry_.name(segment_->name(id));
  return at->second;
}

uint64_t RankDrain::lost() const {
  uint64_t lost = segment_->unplaced();
  for (const RingReader& reader : readers_) lost += reader.lost();
  return lost;
}

void RankDrain::fill_state(RankState& state) const {
  state.lost = lost() + dropped_;
  state.progress.clear();
  for (const auto& [group, progress] : progress_) state.progress.push_back(progress);
  state.pending.clear();
  for (const auto& [key, pending] : pending_) {
    if (pending.is_issued && !pending.is_completed) state.pending.push_back(pending.operation);
  }
  std::ranges::sort(state.pending, {}, &Operation::issued);
  if (state.pending.size() > kPendingTold) state.pending.resize(kPendingTold);
  state.open.clear();
  for (const auto& ring : open_) {
    for (const OpenSpan& span : ring) state.open.push_back(span.event);
  }
}

}  // namespace convoy::trace
