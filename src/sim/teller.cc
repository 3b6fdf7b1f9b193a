// From what ranks have done to batches. A rank's agent sends one each period; what has ended since
// the last goes along, what has begun and not ended is the state.
#include "src/sim/teller.h"

#include <algorithm>

namespace convoy::sim {
namespace {

using trace::Class;
using trace::Life;

constexpr size_t kPendingMax = 64;

constexpr std::array kSpanNames{
    trace::names::kStep,      trace::names::kData,       trace::names::kForward,
    trace::names::kBackward,  trace::names::kAwaitStage, trace::names::kReduceGradients,
    trace::names::kOptimizer, trace::names::kEvaluate,   trace::names::kCheckpoint,
    trace::names::kGarbage,   trace::names::kLaunch,     trace::names::kKernel,
    trace::names::kWarmUp,
};
static_assert(kSpanNames.size() == kNames);

constexpr std::array kCounterNames{
    trace::names::kSentBytes,   trace::names::kReceivedBytes, trace::names::kSendWait,
    trace::names::kPeerWait,    trace::names::kReceiveWait,   trace::names::kSourceWait,
    trace::names::kRetransmits, trace::names::kRoundTrip,     trace::names::kRunQueue,
    trace::names::kProcessor,   trace::names::kPageFaults,    trace::names::kDiskWait,
    trace::names::kTokens,
};
static_assert(kCounterNames.size() == kCounters);

bool later(int64_t a, uint64_t order_a, int64_t b, uint64_t order_b) {
  return a != b ? a > b : order_a > order_b;
}

}  // namespace

Teller::Teller(const Cluster& cluster, const Layout& layout, Engine& engine, const Fabric& fabric,
               const Faults& faults, trace::Registry& registry, trace::Sink& sink, Outcome& outcome,
               uint64_t generation, Time begin)
    : cluster_(cluster),
      layout_(layout),
      engine_(engine),
      faults_(faults),
      sink_(sink),
      outcome_(outcome),
      generation_(generation),
      begin_(begin),
      period_(std::max(kMillisecond, nanoseconds(cluster.telemetry.period_s))),
      clocks_(cluster, layout, faults),
      told_(layout.ranks),
      next_sample_(layout.hosts, 0) {
  for (size_t i = 0; i < kNames; ++i) names_[i] = registry.name(kSpanNames[i]);
  for (size_t i = 0; i < kCounters; ++i) counters_[i] = registry.name(kCounterNames[i]);
  links_.emplace(cluster, layout, fabric, faults, counters_);
  Random random(mix(cluster.seed, 5'000'000'029ULL + generation));
  Time phase = 0;
  for (uint32_t rank = 0; rank < layout.ranks; ++rank) {
    // An agent reads its host's ranks one after the other.
    if (rank % layout.per_host == 0) {
      phase = static_cast<Time>(random.uniform() * static_cast<double>(period_));
    }
    order_.emplace_back(kMillisecond + phase + static_cast<Time>(rank % layout.per_host) * 20'000,
                        rank);
    told_[rank].random = Random(mix(cluster.seed, 6'000'000'011ULL + rank));
    told_[rank].last = begin;
  }
  std::ranges::sort(order_);
}

void Teller::tell_until(Time until) {
  for (;; ++next_) {
    const auto& [phase, rank] = order_[next_ % order_.size()];
    const auto round = static_cast<Time>(next_ / order_.size());
    const Time due = begin_ + phase + round * period_;
    if (due > until) return;
    const uint32_t host = layout_.host_of(rank);
    if (due >= next_sample_[host]) {
      deliver_late(HostClocks::root(due));
      sink_.clock(clocks_.sample(host, due));
      next_sample_[host] = due + nanoseconds(cluster_.clocks.sample_period_s);
    }
    batch(rank, due);
  }
}

bool Teller::silent(uint32_t rank, Time now) const {
  if (told_[rank].over) return true;
  for (const ActiveFault& f : faults_.all()) {
    if (now < f.onset) continue;
    const bool target = std::ranges::find(f.ranks, rank) != f.ranks.end();
    if (f.fault.cls == Class::kTelemetryLoss && target && now < f.over) return true;
    if (f.fault.cls == Class::kCrash && f.fault.whole_host && target) return true;
    // Of half of those who never join, nobody knows anything.
    if (f.fault.cls == Class::kNotJoined && target && f.seed % 2 == 0) return true;
  }
  return false;
}

void Teller::batch(uint32_t rank, Time now) {
  Told& told = told_[rank];
  if (silent(rank, now)) return;
  batch_.rank = rank;
  batch_.generation = generation_;
  batch_.number = ++told.number;
  batch_.host = told.number == 1 ? host_name(layout_.host_of(rank)) : std::string();
  batch_.pid = told.number == 1 ? static_cast<int32_t>(1000 + rank % layout_.per_host * 7) : 0;
  batch_.operations.clear();
  batch_.spans.clear();
  batch_.counters.clear();
  if (!batch_.state) batch_.state.emplace();
  batch_.state->pending.clear();
  batch_.state->open.clear();
  batch_.state->progress.clear();
  take_operations(rank, now);
  take_spans(rank, now);
  tell_state(rank, now);
  if (cluster_.telemetry.counters && !told.over) {
    const Time span = now - told.last;
    links_->add_stuck(rank, engine_, now, span);
    links_->tell(rank, engine_.ranks()[rank], now, span, batch_.counters);
    const int64_t at = clocks_.host(layout_.host_of(rank), now);
    for (trace::CounterEvent& c : batch_.counters) c.time = at;
    if (cluster_.telemetry.loss > 0) {
      std::erase_if(batch_.counters, [&](const auto&) {
        const bool gone = lost(told);
        told.lost += gone ? 1 : 0;
        return gone;
      });
    }
  }
  batch_.state->lost = told.lost;
  told.last = now;
  send(rank, now);
}

trace::Operation Teller::operation(uint32_t rank, const Done& done) const {
  const uint32_t host = layout_.host_of(rank);
  return {.signature = done.signature,
          .sequence = done.sequence,
          .issued = clocks_.host(host, done.issued),
          .started = clocks_.host(host, done.started),
          .completed = clocks_.host(host, done.completed)};
}

trace::SpanEvent Teller::span(uint32_t rank, const SpanRecord& s) const {
  const uint32_t host = layout_.host_of(rank);
  return {.name = names_[s.name],
          .thread = s.thread,
          .begin = clocks_.host(host, s.begin),
          .end = clocks_.host(host, s.end),
          .value = s.value};
}

// Completed ones go into the batch, those under way into the state.
void Teller::take_operations(uint32_t rank, Time now) {
  Rank& r = engine_.ranks()[rank];
  Told& told = told_[rank];
  std::array<trace::GroupProgress, kSlots> progress;
  const auto note = [&](uint8_t lane, uint32_t sequence, uint32_t trace::GroupProgress::*what) {
    if (lane < kSlots) progress[lane].*what = std::max(progress[lane].*what, sequence);
  };
  const auto pend = [&](const Done& d) {
    if (d.issued > now) return;
    note(d.lane, d.sequence, &trace::GroupProgress::issued);
    trace::Operation o = operation(rank, d);
    o.completed = 0;
    if (d.started > now) {
      o.started = 0;
    } else {
      note(d.lane, d.sequence, &trace::GroupProgress::started);
    }
    batch_.state->pending.push_back(o);
  };
  size_t kept = 0;
  for (const Done& d : r.done) {
    if (d.completed > now) {
      pend(d);
      r.done[kept++] = d;
      continue;
    }
    links_->add(rank, d);
    if (d.lane < kSlots) told.completed[d.lane] = std::max(told.completed[d.lane], d.sequence);
    if (lost(told)) {
      ++told.lost;
    } else {
      batch_.operations.push_back(operation(rank, d));
    }
  }
  r.done.resize(kept);
  for (const Open& o : r.open) {
    const Time started = engine_.started(o);
    pend({.issued = o.issued,
          .started = started == kNever ? now + 1 : started,
          .signature = o.signature,
          .sequence = o.sequence,
          .lane = o.lane});
  }
  auto& pending = batch_.state->pending;
  std::ranges::sort(pending, {}, &trace::Operation::issued);
  if (pending.size() > kPendingMax) pending.resize(kPendingMax);
  for (size_t slot = 0; slot < kSlots; ++slot) {
    if (!layout_.has(static_cast<Slot>(slot))) continue;
    trace::GroupProgress& p = progress[slot];
    p.group = layout_.groups[layout_.group_of[slot][rank]].id;
    p.completed = told.completed[slot];
    p.started = std::max(p.started, p.completed);
    p.issued = std::max(p.issued, p.started);
    batch_.state->progress.push_back(p);
  }
}

void Teller::take_spans(uint32_t rank, Time now) {
  Rank& r = engine_.ranks()[rank];
  Told& told = told_[rank];
  auto& open = batch_.state->open;
  size_t kept = 0;
  for (const SpanRecord& s : r.spans) {
    if (s.end > now) {
      if (s.begin <= now) open.push_back(span(rank, s));
      r.spans[kept++] = s;
      continue;
    }
    if (s.name == kNameData || s.name == kNameCheckpoint) {
      links_->add_disk_wait(rank, static_cast<double>(s.end - s.begin) * disk_share(s.name));
    }
    if (!cluster_.telemetry.spans) continue;
    if (lost(told)) {
      ++told.lost;
    } else {
      batch_.spans.push_back(span(rank, s));
    }
  }
  r.spans.resize(kept);
  for (const SpanRecord& s : r.open_spans) {
    if (s.begin <= now)
      open.push_back(span(rank, {s.name, s.thread, s.begin, kNever / 4, s.value}));
  }
  // Outermost first: those that begin together end the later, the further out they are.
  std::ranges::stable_sort(open, [](const trace::SpanEvent& a, const trace::SpanEvent& b) {
    return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
  });
  for (trace::SpanEvent& s : open) s.end = 0;
  if (!cluster_.telemetry.spans) open.clear();
}

// Samples come out of the page cache unless the storage is what is slow.
double Teller::disk_share(Name name) const {
  if (name == kNameCheckpoint) return 0.6;
  return std::ranges::any_of(faults_.all(),
                             [](const ActiveFault& f) {
                               return f.fault.cls == Class::kStorageStall && f.onset != kNever &&
                                      f.over == kNever;
                             })
             ? 0.9
             : 0.1;
}

void Teller::tell_life(uint32_t rank, Time now, trace::RankState& state) {
  for (const ActiveFault& f : faults_.all()) {
    if (std::ranges::find(f.ranks, rank) == f.ranks.end()) continue;
    if (f.fault.cls == Class::kHostHang && now >= f.onset && f.seed % 4 == 0) {
      state.life = Life::kStopped;
    }
    if (f.fault.cls == Class::kNotJoined) {
      state.life = Life::kExited;
      state.exit_code = 1;
      told_[rank].over = true;
    }
  }
  if (now < engine_.ranks()[rank].died) return;
  state.life = Life::kKilled;
  state.exit_code = 9;
  told_[rank].over = true;
}

void Teller::tell_state(uint32_t rank, Time now) {
  trace::RankState& state = *batch_.state;
  state.time = clocks_.host(layout_.host_of(rank), now);
  state.life = Life::kRunning;
  state.exit_code = 0;
  tell_life(rank, now, state);
}

void Teller::send(uint32_t rank, Time now) {
  Told& told = told_[rank];
  Time arrival = now + kMillisecond;
  if (told.random.chance(cluster_.telemetry.late_share)) {
    arrival += static_cast<Time>(told.random.uniform() * cluster_.telemetry.late_s * 1e9);
  }
  // A rank's batches stay in order.
  const bool late = arrival > now + kMillisecond || told.late > arrival;
  told.late = std::max(told.late, arrival);
  batch_.received = HostClocks::root(told.late);
  if (late) {
    late_.push_back({batch_.received, ++late_order_, batch_});
    std::ranges::push_heap(late_, [](const Late& a, const Late& b) {
      return later(a.received, a.order, b.received, b.order);
    });
    return;
  }
  deliver_late(batch_.received);
  deliver(batch_);
}

void Teller::deliver(const trace::Batch& batch) {
  ++outcome_.batches;
  outcome_.operations += batch.operations.size();
  outcome_.spans += batch.spans.size();
  outcome_.counters += batch.counters.size();
  sink_.batch(batch);
}

void Teller::deliver_late(int64_t until) {
  while (!late_.empty() && late_.front().received <= until) {
    std::ranges::pop_heap(late_, [](const Late& a, const Late& b) {
      return later(a.received, a.order, b.received, b.order);
    });
    deliver(late_.back().batch);
    late_.pop_back();
  }
}

void Teller::finish() {
  deliver_late(INT64_MAX);
}

}  // namespace convoy::sim
