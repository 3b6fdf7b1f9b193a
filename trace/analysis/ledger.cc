// What is known of each rank, and how long things usually take.
#include "trace/analysis/ledger.h"

#include <algorithm>
#include <string_view>
#include <utility>

namespace convoy::trace {
namespace {

constexpr uint32_t kRanksMax = 1U << 20;
// Without history, times are no guide: first operations compile, connect and tune.
constexpr uint32_t kUsualMin = 16;
constexpr int64_t kIntervalUnknown = 15'000'000'000;
constexpr int64_t kUnusualFactor = 10;
// How many times as long as usual a piece of computation may take.
constexpr int64_t kIdleFactor = 3;
constexpr size_t kCallsBytesMax = size_t{128} << 20;
constexpr size_t kLinksMax = 256;
constexpr int64_t kLinkPeriod = 1'000'000'000;

// Of what takes long now and then without being stuck: in floors.
struct Patience {
  const char* name;
  int64_t floors;
};
constexpr Patience kPatience[] = {{names::kData, 15},
                                  {names::kEvaluate, 30},
                                  {names::kGarbage, 15},
                                  {names::kCheckpoint, 60},
                                  {names::kWarmUp, 120}};

int8_t link_counter(std::string_view name) {
  static constexpr std::pair<const char*, LinkCounter> kNames[] = {
      {names::kSentBytes, kLinkSent},          {names::kReceivedBytes, kLinkReceived},
      {names::kSendWait, kLinkSendWait},       {names::kPeerWait, kLinkPeerWait},
      {names::kReceiveWait, kLinkReceiveWait}, {names::kSourceWait, kLinkSourceWait},
      {names::kRetransmits, kLinkRetransmits}};
  for (const auto& [n, c] : kNames) {
    if (name == n) return static_cast<int8_t>(c);
  }
  return -1;
}

}  // namespace

const Progress* RankTrack::find(uint32_t group, int32_t peer, bool sends) const {
  for (const Progress& p : progress) {
    if (p.group == group && p.peer == peer && p.sends == sends) return &p;
  }
  return nullptr;
}

Ledger::Ledger(const Registry& registry, const DiagnoserOptions& options)
    : registry_(registry), options_(options) {}

bool Ledger::job(const JobInfo& job) {
  const bool is_new = has_job_ && (job.generation != job_.generation || job.job != job_.job ||
                                   job.world_size != job_.world_size);
  job_ = job;
  has_job_ = true;
  if (is_new) {
    ranks_.clear();
    first_seen_ = 0;
  }
  const size_t all = std::min(job.world_size, kRanksMax);
  if (ranks_.size() < all) ranks_.resize(all);
  calls_of_rank_ =
      std::clamp<size_t>(kCallsBytesMax / sizeof(Call) / std::max<size_t>(all, 1), 64, 2048);
  return is_new;
}

bool Ledger::is_new_batch(RankTrack& rank, uint64_t number) const {
  if (number == 0) return true;
  if (number > rank.newest_batch) {
    const uint64_t by = number - rank.newest_batch;
    rank.batches_before = by >= 64 ? 0 : rank.batches_before << by;
    if (by <= 64 && rank.newest_batch != 0) rank.batches_before |= uint64_t{1} << (by - 1);
    rank.newest_batch = number;
    return true;
  }
  const uint64_t by = rank.newest_batch - number;
  if (by == 0 || by > 64) return false;
  const uint64_t bit = uint64_t{1} << (by - 1);
  if ((rank.batches_before & bit) != 0) return false;
  rank.batches_before |= bit;
  return true;
}

bool Ledger::batch(const Batch& batch, ClockModel& clocks, Join& join) {
  if (batch.rank >= kRanksMax || (has_job_ && batch.generation < job_.generation)) return false;
  if (has_job_ && job_.world_size != 0 && batch.rank >= job_.world_size) return false;
  if (batch.rank >= ranks_.size()) ranks_.resize(batch.rank + 1);
  RankTrack& rank = ranks_[batch.rank];
  if (!is_new_batch(rank, batch.number)) return false;
  if (shape_of_.size() < registry_.signatures().size()) learn_signatures();
  if (!batch.host.empty()) clocks.place(batch.rank, batch.host);
  if (batch.state) clocks.received(batch.rank, batch.state->time, batch.received);
  rank.is_seen = true;
  join.add(batch.rank, batch.operations, clocks, [&](uint32_t ring, const Instance& x) {
    // Of the others only operations in which each waits for all are sure to be in this order.
    if (join.owners()[ring].sender != Join::kNone) return;
    if (registry_.signatures()[x.signature].root >= 0) return;
    clocks.order(x.issued_last, x.issued_max, x.completed_first, x.completed_min);
  });
  operations(rank, batch.operations);
  spans(rank, batch.spans);
  counters(rank, batch.counters);
  state(rank, batch, clocks);
  if (first_seen_ == 0) first_seen_ = rank.last_seen;
  horizon_ = std::max(horizon_, rank.last_seen);
  return true;
}

void Ledger::learn_signatures() {
  const auto& all = registry_.signatures();
  for (size_t i = shape_of_.size(); i < all.size(); ++i) {
    Signature shape = all[i];
    static const GroupInfo nobody;
    const GroupInfo& group =
        shape.group < registry_.groups().size() ? registry_.groups()[shape.group] : nobody;
    const auto root =
        std::find(group.ranks.begin(), group.ranks.end(), static_cast<uint32_t>(shape.root));
    if (shape.root >= 0) shape.root = static_cast<int32_t>(root - group.ranks.begin());
    if (shape.is_message()) shape.peer = 0;
    if (shape.uneven) shape.bytes = 0;
    shape.group = static_cast<uint32_t>(group.ranks.size());
    const uint32_t number = shape_numbers_.signature(shape);
    if (number >= shapes_.size()) shapes_.emplace_back();
    shape_of_.push_back(number);
  }
}

Progress& Ledger::progress(RankTrack& rank, uint32_t group, int32_t peer, bool sends) {
  for (Progress& p : rank.progress) {
    if (p.group == group && p.peer == peer && p.sends == sends) return p;
  }
  Progress p;
  p.group = group;
  p.peer = peer;
  p.sends = sends;
  rank.progress.push_back(p);
  return rank.progress.back();
}

void Ledger::advance(RankTrack& rank, const Operation& o, bool is_complete) {
  const Signature& s = registry_.signatures()[o.signature];
  Progress& p = progress(rank, s.group, s.peer, s.is_message() && s.operation != "recv");
  p.issued = std::max(p.issued, o.sequence);
  if (o.started != 0 || is_complete) p.started = std::max(p.started, o.sequence);
  if (is_complete) p.completed = std::max(p.completed, o.sequence);
  if (o.started != 0) rank.tells_starts = true;
}

void Ledger::operations(RankTrack& rank, const std::vector<Operation>& operations) {
  if (operations.empty()) return;
  if (rank.calls.empty()) rank.calls.resize(calls_of_rank_);
  for (const Operation& o : operations) {
    if (o.signature >= shape_of_.size() || o.sequence == 0) continue;
    ShapeTrack& shape = shapes_[shape_of_[o.signature]];
    ++shape.count;
    if (o.completed > o.issued && o.issued != 0) shape.durations.add(o.completed - o.issued);
    advance(rank, o, true);
    rank.calls[rank.next_call % rank.calls.size()] = {o.signature, o.sequence, o.issued,
                                                      o.completed};
    ++rank.next_call;
    rank.last_activity = std::max({rank.last_activity, o.issued, o.completed});
    rank.last_on_device = std::max({rank.last_on_device, o.started, o.completed});
    if (rank.last.sequence != 0) {
      if (o.issued > rank.last.issued) gaps_.add(o.issued - rank.last.issued);
      pair(rank.last, o);
    }
    rank.last = o;
  }
}

// Two operations of one rank, one completed after the other.
void Ledger::pair(const Operation& a, const Operation& b) {
  const auto look = [&](const Operation& x, const Operation& y) {
    ShapeTrack& shape = shapes_[shape_of_[x.signature]];
    ++shape.paired;
    if (x.issued < y.issued && y.issued < x.completed) ++shape.called_meanwhile;
    if (x.started != 0 && x.started < y.started && y.started < x.completed) ++shape.ran_meanwhile;
  };
  look(a, b);
  look(b, a);
}

void Ledger::spans(RankTrack& rank, const std::vector<SpanEvent>& spans) {
  if (spans.empty()) return;
  if (span_times_.size() < registry_.names().size()) span_times_.resize(registry_.names().size());
  const std::optional<uint32_t> step = registry_.find_name(names::kStep);
  const std::optional<uint32_t> kernel = registry_.find_name(names::kKernel);
  for (const SpanEvent& s : spans) {
    if (s.name >= span_times_.size()) continue;
    if (s.end > s.begin) span_times_[s.name].add(s.end - s.begin);
    rank.last_activity = std::max({rank.last_activity, s.begin, s.end});
    if (s.name == kernel) rank.last_on_device = std::max({rank.last_on_device, s.begin, s.end});
    if (s.name == step && s.end > rank.step_end) {
      rank.step_end = s.end;
      rank.step = static_cast<int64_t>(s.value);
    }
  }
}

void Ledger::counters(RankTrack& rank, const std::vector<CounterEvent>& counters) {
  for (size_t i = counter_of_.size(); i < registry_.names().size(); ++i) {
    counter_of_.push_back(link_counter(registry_.names()[i]));
  }
  for (const CounterEvent& c : counters) {
    if (c.name >= counter_of_.size() || counter_of_[c.name] < 0 || c.peer < 0) continue;
    const auto peer = static_cast<uint32_t>(c.peer);
    auto link = std::find_if(rank.links.begin(), rank.links.end(),
                             [&](const LinkState& l) { return l.peer == peer; });
    if (link == rank.links.end()) {
      if (rank.links.size() >= kLinksMax) continue;
      rank.links.emplace_back().peer = peer;
      link = rank.links.end() - 1;
    }
    if (c.time - link->next_time >= kLinkPeriod) {
      link->before = link->next_time == 0 ? link->now : link->next;
      link->before_time = link->next_time;
      link->next = link->now;
      link->next_time = c.time;
    }
    link->now[static_cast<uint8_t>(counter_of_[c.name])] = c.value;
    link->time = std::max(link->time, c.time);
  }
}

void Ledger::state(RankTrack& rank, const Batch& batch, const ClockModel& clocks) {
  int64_t seen = rank.last_activity;
  const bool is_newer = batch.state && batch.state->time >= rank.state.time;
  if (batch.state) seen = std::max(seen, batch.state->time);
  int64_t at = clocks.root_time(batch.rank, seen);
  if (batch.received != 0) {
    // Where the clock is not known, this is all that is.
    const bool is_known = clocks.error(batch.rank) != ClockModel::kErrorUnknown;
    at = is_known ? std::min(at, batch.received) : batch.received;
    rank.lateness = std::max(rank.lateness, batch.received - at);
    lateness_ = std::max(lateness_, rank.lateness);
  }
  rank.last_seen = std::max(rank.last_seen, at);
  if (!is_newer) return;
  if (rank.state.time != 0) {
    const int64_t interval = batch.state->time - rank.state.time;
    rank.interval = std::max(rank.interval, interval);
    if (interval > 0) intervals_.add(interval);
  }
  rank.state = *batch.state;
  std::erase_if(rank.state.pending, [&](const Operation& o) {
    return o.signature >= shape_of_.size() || o.sequence == 0;
  });
  for (const GroupProgress& g : rank.state.progress) {
    Progress& p = progress(rank, g.group, -1, false);
    p.issued = std::max(p.issued, g.issued);
    p.started = std::max(p.started, std::max(g.started, g.completed));
    p.completed = std::max(p.completed, g.completed);
    if (g.started > g.completed) rank.tells_starts = true;
    if (g.issued != 0) rank.calls_told = true;
  }
  for (const Operation& o : rank.state.pending) {
    advance(rank, o, false);
    rank.last_activity = std::max({rank.last_activity, o.issued, o.started});
    rank.last_on_device = std::max(rank.last_on_device, o.started);
  }
  const std::optional<uint32_t> kernel = registry_.find_name(names::kKernel);
  for (const SpanEvent& s : rank.state.open) {
    rank.last_activity = std::max(rank.last_activity, s.begin);
    if (s.name == kernel) rank.last_on_device = std::max(rank.last_on_device, s.begin);
  }
  if (rank.is_dead()) {
    if (rank.died == 0) rank.died = at;
  } else {
    rank.died = 0;
    rank.alive = at;
  }
}

int64_t Ledger::deadline(uint32_t signature) const {
  const ShapeTrack& s = shape(signature);
  const int64_t floor = options_.hang_floor.count();
  if (s.durations.total() < kUsualMin) return kUnusualFactor * floor;
  return std::max(floor, static_cast<int64_t>(options_.hang_factor *
                                              static_cast<double>(s.durations.quantile(0.99))));
}

int64_t Ledger::first_deadline() const {
  return kUnusualFactor * options_.hang_floor.count();
}

int64_t Ledger::span_limit(std::string_view name, uint32_t number) const {
  const int64_t floor = options_.hang_floor.count();
  const int64_t usual =
      number < span_times_.size() ? kIdleFactor * span_times_[number].quantile(0.99) : 0;
  for (const Patience& p : kPatience) {
    if (name == p.name) return std::max(floor * p.floors, usual);
  }
  return std::max(floor, usual);
}

int64_t Ledger::idle_limit(const RankTrack& rank) const {
  const int64_t floor = options_.hang_floor.count();
  int64_t limit = std::max(floor, kIdleFactor * gaps_.quantile(0.999));
  if (gaps_.total() < kUsualMin) limit = std::max(limit, kUnusualFactor * floor);
  if (rank.state.open.empty()) return limit;
  // What is patient counts wherever it is open; of the rest the innermost.
  int64_t patient = 0;
  for (const SpanEvent& s : rank.state.open) {
    if (s.name >= registry_.names().size()) continue;
    const std::string& name = registry_.names()[s.name];
    const bool is_patient = std::any_of(std::begin(kPatience), std::end(kPatience),
                                        [&](const Patience& p) { return name == p.name; });
    if (is_patient) patient = std::max(patient, span_limit(name, s.name));
  }
  if (patient != 0) return patient;
  const SpanEvent& inner = rank.state.open.back();
  if (inner.name >= registry_.names().size()) return limit;
  const std::string& name = registry_.names()[inner.name];
  const bool has_history = inner.name < span_times_.size() && name != names::kStep &&
                           span_times_[inner.name].total() >= kUsualMin;
  return has_history ? span_limit(name, inner.name) : limit;
}

int64_t Ledger::age(const RankTrack& rank, const Operation& operation) const {
  return rank.state.time - operation.issued;
}

int64_t Ledger::idle(const RankTrack& rank) const {
  return rank.state.time - rank.last_activity;
}

int64_t Ledger::running(const RankTrack& rank, const Operation& operation) const {
  return rank.state.time - std::max(operation.issued, operation.started);
}

int64_t Ledger::device_idle(const RankTrack& rank) const {
  return rank.state.time - rank.last_on_device;
}

int64_t Ledger::device_idle_limit(uint32_t signature) const {
  const std::optional<uint32_t> kernel = registry_.find_name(names::kKernel);
  return std::max(deadline(signature), kernel ? span_limit(names::kKernel, *kernel) : 0);
}

const std::string* Ledger::open_span(const RankTrack& rank) const {
  for (size_t i = rank.state.open.size(); i-- > 0;) {
    const uint32_t name = rank.state.open[i].name;
    if (name < registry_.names().size()) return &registry_.names()[name];
  }
  return nullptr;
}

int64_t Ledger::step_of(const RankTrack& rank) const {
  for (const SpanEvent& s : rank.state.open) {
    if (s.name < registry_.names().size() && registry_.names()[s.name] == names::kStep) {
      return static_cast<int64_t>(s.value);
    }
  }
  return rank.step == 0 ? 0 : rank.step + 1;
}

// How often a rank tells is known once others have told twice.
int64_t Ledger::interval(const RankTrack& rank) const {
  const bool is_known = 2 * size_t{intervals_.total()} >= ranks_.size();
  return std::max(rank.interval, is_known ? intervals_.quantile(0.5) : kIntervalUnknown);
}

bool Ledger::is_silent(const RankTrack& rank) const {
  const int64_t silence = horizon_ - rank.last_seen;
  // Of nearly all ranks nothing more has to be known.
  if (!rank.is_seen || silence <= options_.silent_after.count()) return false;
  return silence > std::max(2 * interval(rank), lateness_ + lateness_ / 4);
}

bool Ledger::is_surely_silent(const RankTrack& rank) const {
  return is_silent(rank) &&
         horizon_ - rank.last_seen > 2 * options_.silent_after.count() + interval(rank);
}

std::optional<uint32_t> Ledger::signature_at(uint32_t number, const Signature& like,
                                             uint32_t sequence) const {
  const RankTrack& r = rank(number);
  const auto is_it = [&](uint32_t signature, uint32_t seq) {
    const Signature& s = registry_.signatures()[signature];
    return seq == sequence && s.group == like.group && s.is_message() == like.is_message() &&
           (!s.is_message() || (s.peer == like.peer && s.operation == like.operation));
  };
  for (const Operation& o : r.state.pending) {
    if (is_it(o.signature, o.sequence)) return o.signature;
  }
  const size_t kept = std::min(r.next_call, r.calls.size());
  for (size_t i = 1; i <= kept; ++i) {
    const Call& c = r.calls[(r.next_call - i) % r.calls.size()];
    if (is_it(c.signature, c.sequence)) return c.signature;
  }
  return std::nullopt;
}

}  // namespace convoy::trace
