#include "trace/analysis/slow/step_builder.h"

#include "trace/analysis/slow/robust.h"

#include <algorithm>

namespace convoy::trace::slow {
namespace {

// Sorted and joined where they touch.
void unite(std::vector<Interval>& all) {
  std::sort(all.begin(), all.end(),
            [](const Interval& a, const Interval& b) { return a.begin < b.begin; });
  size_t kept = 0;
  for (const Interval& i : all) {
    if (i.end <= i.begin) continue;
    if (kept != 0 && i.begin <= all[kept - 1].end) {
      all[kept - 1].end = std::max(all[kept - 1].end, i.end);
    } else {
      all[kept++] = i;
    }
  }
  all.resize(kept);
}

int64_t overlap(const std::vector<Interval>& united, const Interval& with) {
  auto at = std::lower_bound(united.begin(), united.end(), with.begin,
                             [](const Interval& i, int64_t begin) { return i.end <= begin; });
  int64_t sum = 0;
  for (; at != united.end() && at->begin < with.end; ++at) {
    sum += std::min(at->end, with.end) - std::max(at->begin, with.begin);
  }
  return sum;
}

int64_t length(const std::vector<Interval>& united) {
  int64_t sum = 0;
  for (const Interval& i : united) sum += i.end - i.begin;
  return sum;
}

template <typename Event>
void bound(std::vector<Event>& events, size_t max) {
  if (events.size() > max) events.erase(events.begin(), events.end() - static_cast<ptrdiff_t>(max));
}

bool is_computation(SpanKind kind) {
  return kind == SpanKind::kForward || kind == SpanKind::kBackward || kind == SpanKind::kOptimizer;
}

// In each step alike; the computations are counted apart.
bool is_usual(SpanKind kind) {
  return kind == SpanKind::kAwait || kind == SpanKind::kReduce || kind == SpanKind::kLaunch ||
         kind == SpanKind::kKernel;
}

// Follows the most frequent value.
void follow(std::pair<uint32_t, uint32_t>& usual, uint32_t value) {
  auto& [mode, votes] = usual;
  if (value == mode) {
    votes = std::min(votes + 1, 4U);
  } else if (votes == 0) {
    mode = value, votes = 1;
  } else {
    --votes;
  }
}

// What a rank does between its operations in a step: from when one of them last came to it or
// ended, to when the next comes.
std::vector<Interval> between(const std::vector<int64_t>& arrivals,
                              const std::vector<int64_t>& ends, const RankStep& step) {
  std::vector<std::pair<int64_t, bool>> moments;  // false: an end, which comes first
  for (const int64_t end : ends) moments.emplace_back(end, false);
  for (const int64_t arrival : arrivals) moments.emplace_back(arrival, true);
  moments.emplace_back(step.end, true);
  std::sort(moments.begin(), moments.end());
  std::vector<Interval> own;
  int64_t last = step.begin;
  for (const auto& [time, is_arrival] : moments) {
    if (is_arrival && time > last) own.push_back({last, time});
    last = std::max(last, time);
  }
  return own;
}

// Of these, what is in no part that is known.
float own_time(const std::vector<Interval>& between, const std::vector<Interval> (&parts)[kParts]) {
  std::vector<Interval> known;
  for (const auto& part : parts) known.insert(known.end(), part.begin(), part.end());
  unite(known);
  int64_t sum = 0;
  for (const Interval& i : between) sum += i.end - i.begin - overlap(known, i);
  return static_cast<float>(sum);
}

// Of computations of one kind, some of which may have lost what they waited for, and some of which
// may be missing: the sum that there was, by the intact ones.
float repaired_sum(std::vector<float>& times, const std::vector<bool>& doubtful, uint32_t usual) {
  std::vector<float> intact;
  for (size_t i = 0; i < times.size(); ++i) {
    if (!doubtful[i]) intact.push_back(times[i]);
  }
  if (intact.empty()) return 0;
  const float typical = median(intact);
  float sum = 0;
  for (size_t i = 0; i < times.size(); ++i) sum += doubtful[i] ? typical : times[i];
  if (times.size() < usual) sum += typical * static_cast<float>(usual - times.size());
  return sum;
}

}  // namespace

void StepBuilder::resize(uint32_t ranks) {
  ranks_.assign(ranks, {});
  votes_.clear();
}

void StepBuilder::take(const Batch& batch, Rank& rank) {
  for (const Operation& o : batch.operations) {
    if (o.issued == 0 || o.completed < o.issued || o.signature >= registry_.signatures().size()) {
      continue;
    }
    const Signature& s = registry_.signatures()[o.signature];
    if (s.group < registry_.groups().size()) rank.operations.push_back(o);
  }
  for (const SpanEvent& s : batch.spans) {
    const SpanKind kind = names_.span(s.name);
    if (kind == SpanKind::kOther || s.end < s.begin || s.end == 0) continue;
    rank.spans.push_back({kind, {s.begin, s.end}, s.value});
  }
  for (const CounterEvent& c : batch.counters) {
    const CounterKind kind = names_.counter(c.name);
    if (kind != CounterKind::kOther) rank.counters.push_back({kind, c.peer, c.time, c.value});
  }
  bound(rank.operations, kPendingMax);
  bound(rank.spans, kPendingMax);
  bound(rank.counters, kPendingMax);
}

void StepBuilder::batch(const Batch& batch) {
  if (batch.rank >= ranks_.size()) return;
  Rank& rank = ranks_[batch.rank];
  take(batch, rank);
  if (rank.next == 0) find_next(rank);
}

void StepBuilder::find_next(Rank& rank) {
  rank.next = 0;
  for (const Span& s : rank.spans) {
    if (s.kind != SpanKind::kStep || s.value <= rank.step || s.value > UINT32_MAX) continue;
    const auto step = static_cast<uint32_t>(s.value);
    if (rank.next == 0 || step < rank.next) rank.next = step;
  }
}

void StepBuilder::close_steps(uint32_t number, uint32_t limit, std::vector<uint32_t>& finished) {
  Rank& rank = ranks_[number];
  if (rank.next == 0 || rank.next > limit) return;
  std::vector<Span> steps;
  for (const Span& s : rank.spans) {
    if (s.kind == SpanKind::kStep && s.value <= limit) steps.push_back(s);
  }
  std::sort(steps.begin(), steps.end(),
            [](const Span& a, const Span& b) { return a.at.end < b.at.end; });
  for (const Span& step : steps) {
    if (step.value <= rank.step) continue;
    close(number, rank, step);
    finished.push_back(static_cast<uint32_t>(step.value));
  }
  std::erase_if(rank.spans, [&](const Span& s) { return s.at.begin < rank.end; });
  find_next(rank);
}

void StepBuilder::close(uint32_t number, Rank& rank, const Span& step) {
  RankStep cell;
  cell.step = static_cast<uint32_t>(step.value);
  cell.begin = rank.end != 0 ? rank.end : step.at.begin;
  cell.end = step.at.end;
  cell.double_step = rank.step != 0 && cell.step != rank.step + 1;
  cell.special = rank.step == 0 || cell.double_step;
  RankStep& slot = window_.slot(number, cell.step);
  slot = cell;
  Waits waits;
  close_operations(number, rank, slot, waits);
  close_spans(rank, slot, waits);
  close_counters(number, rank, slot);
  rank.step = cell.step;
  rank.end = cell.end;
}

StepBuilder::Channel& StepBuilder::channel(Rank& rank, const Signature& s) {
  uint64_t key = uint64_t{s.group} << 32;
  if (s.is_message()) key |= uint64_t{static_cast<uint32_t>(s.peer)} << 1 | (s.operation == "send");
  if (s.is_message()) key = ~key;
  for (Channel& c : rank.channels) {
    if (c.key == key) return c;
  }
  return rank.channels.emplace_back(Channel{.key = key});
}

// While a rank waits for an operation, it begins and ends nothing else.
bool StepBuilder::is_waited_for(const Operation& o, const std::vector<int64_t>& activity) {
  const int64_t margin = std::max<int64_t>(500, (o.completed - o.issued) / 20);
  const auto first = std::upper_bound(activity.begin(), activity.end(), o.issued + margin);
  const bool busy = first != activity.end() && *first < o.completed - margin;
  if (votes_.size() <= o.signature) votes_.resize(registry_.signatures().size());
  Vote& vote = votes_[o.signature];
  ++vote.all;
  vote.busy += busy;
  return !busy && 2 * vote.busy <= vote.all;
}

void StepBuilder::close_operations(uint32_t number, Rank& rank, RankStep& cell, Waits& waits) {
  std::vector<Operation> mine;
  std::erase_if(rank.operations, [&](const Operation& o) {
    if (o.completed > cell.end) return false;
    mine.push_back(o);
    return true;
  });
  std::sort(mine.begin(), mine.end(),
            [](const Operation& a, const Operation& b) { return a.issued < b.issued; });
  std::vector<int64_t> activity;
  for (const Operation& o : mine) activity.push_back(o.issued);
  for (const Span& s : rank.spans) {
    if (!is_computation(s.kind) && s.kind != SpanKind::kAwait) continue;
    activity.push_back(s.at.begin);
    activity.push_back(s.at.end);
  }
  std::sort(activity.begin(), activity.end());
  for (const Operation& o : mine) {
    const Signature& s = registry_.signatures()[o.signature];
    Channel& before = channel(rank, s);
    if (before.sequence != 0 && o.sequence > before.sequence + 1) {
      waits.holes.push_back({before.completed, o.issued});
    }
    // Operations of a group follow each other: one that was called early begins after the last.
    const int64_t arrival = std::max({o.issued, o.started, before.completed});
    const int64_t stay = std::max<int64_t>(0, o.completed - arrival);
    flows_.add(number, o, cell.step, static_cast<float>(stay), window_);
    waits.arrivals.push_back(arrival), waits.ends.push_back(o.completed);
    before.sequence = o.sequence;
    before.completed = std::max(before.completed, o.completed);
    if (s.operation == "all_to_all") cell.given += static_cast<float>(s.bytes);
    if (is_waited_for(o, activity)) waits.waits.push_back({o.issued, o.completed});
  }
  cell.operations = static_cast<uint32_t>(mine.size());
  follow(rank.operations_usual, cell.operations);
  cell.lossy = !waits.holes.empty() || cell.operations < rank.operations_usual.first;
}

void StepBuilder::close_counters(uint32_t number, Rank& rank, RankStep& cell) {
  uint64_t tokens = rank.tokens, run_queue = rank.run_queue;
  std::erase_if(rank.counters, [&](const Counter& c) {
    if (c.time > cell.end) return false;
    if (c.kind == CounterKind::kTokens) {
      tokens = std::max(tokens, c.value);
    } else if (c.kind == CounterKind::kRunQueue) {
      run_queue = std::max(run_queue, c.value);
    } else if (c.peer >= 0 && static_cast<uint32_t>(c.peer) < ranks_.size()) {
      links_.add(number, static_cast<uint32_t>(c.peer), c.kind, c.time, c.value);
    }
    return true;
  });
  if (rank.step != 0) {
    cell.tokens = static_cast<float>(tokens - rank.tokens);
    cell.run_queue = static_cast<float>(run_queue - rank.run_queue);
  }
  rank.tokens = tokens;
  rank.run_queue = run_queue;
  links_.close(number, cell.step);
}

void StepBuilder::close_spans(Rank& rank, RankStep& cell, Waits& waits) {
  const Interval all{cell.begin, cell.end};
  std::vector<Interval> away = waits.waits, known, kernels;
  std::vector<Interval> awaits;
  std::sort(rank.spans.begin(), rank.spans.end(),
            [](const Span& a, const Span& b) { return a.at.begin < b.at.begin; });
  std::vector<Interval> own[kParts];
  for (const Span& s : rank.spans) {
    const Interval at{std::max(s.at.begin, all.begin), std::min(s.at.end, all.end)};
    if (at.end <= at.begin) continue;
    switch (s.kind) {
      case SpanKind::kData:
        own[kData].push_back(at);
        break;
      case SpanKind::kCheckpoint:
        own[kCheckpoint].push_back(at);
        break;
      case SpanKind::kGarbage:
        own[kGarbage].push_back(at);
        break;
      case SpanKind::kLaunch:
        own[kLaunch].push_back(at);
        break;
      case SpanKind::kAwait:
        awaits.push_back(at);
        break;
      case SpanKind::kKernel:
        kernels.push_back(at);
        break;
      case SpanKind::kReduce:
        cell.reducing += static_cast<float>(at.end - at.begin);
        break;
      case SpanKind::kWarmUp:
        cell.warm_up = true;
        [[fallthrough]];
      case SpanKind::kEvaluate:
        cell.special = true;
        break;
      default:
        break;
    }
    if (s.kind != SpanKind::kStep && s.kind != SpanKind::kKernel) known.push_back(at);
  }
  for (const Part part : {kData, kCheckpoint, kGarbage, kLaunch}) {
    away.insert(away.end(), own[part].begin(), own[part].end());
  }
  unite(awaits);
  unite(waits.waits);
  std::vector<Interval> waiting = waits.waits;
  waiting.insert(waiting.end(), awaits.begin(), awaits.end());
  unite(waiting);
  away.insert(away.end(), waiting.begin(), waiting.end());
  unite(away);
  unite(waits.holes);
  // What a reading, a checkpoint … takes, less the waiting within. Work is handed over while the
  // GPU is busy or waits.
  for (const Part part : {kData, kCheckpoint, kGarbage, kLaunch}) {
    unite(own[part]);
    for (const Interval& i : own[part]) {
      const int64_t within = part == kLaunch ? 0 : overlap(waiting, i);
      cell.part[part] += static_cast<float>(i.end - i.begin - within);
    }
  }
  cell.waiting = static_cast<float>(length(waiting));
  cell.waited_stage = static_cast<float>(length(awaits));

  std::vector<float> times[3];
  std::vector<bool> doubtful[3];
  int64_t covered_to = INT64_MIN;
  for (const Span& s : rank.spans) {
    if (!is_computation(s.kind) || s.at.end > all.end || s.at.begin < all.begin) continue;
    if (s.at.end <= covered_to) continue;  // within another: recomputation
    covered_to = s.at.end;
    const int kind = s.kind == SpanKind::kForward ? 0 : s.kind == SpanKind::kBackward ? 1 : 2;
    times[kind].push_back(static_cast<float>(s.at.end - s.at.begin - overlap(away, s.at)));
    doubtful[kind].push_back(overlap(waits.holes, s.at) > 0);
  }
  const auto count = [&](int kind) { return static_cast<uint32_t>(times[kind].size()); };
  follow(rank.forwards, count(0));
  follow(rank.backwards, count(1));
  cell.computations = count(0) + count(1);
  const auto others = std::count_if(rank.spans.begin(), rank.spans.end(), [&](const Span& s) {
    return is_usual(s.kind) && s.at.end <= all.end && s.at.begin >= all.begin;
  });
  follow(rank.others, static_cast<uint32_t>(others));
  cell.lossy |= others < rank.others.first;
  cell.lossy |= count(0) < rank.forwards.first || count(1) < rank.backwards.first;
  cell.halves = {repaired_sum(times[0], doubtful[0], rank.forwards.first),
                 repaired_sum(times[1], doubtful[1], rank.backwards.first)};
  cell.part[kCompute] =
      cell.halves[0] + cell.halves[1] + repaired_sum(times[2], doubtful[2], count(2));
  if (!kernels.empty()) {  // what the GPU does says more than what the host waits for
    cell.halves = {};
    for (size_t i = 0; i < kernels.size(); ++i) {
      cell.halves[i % 2] += static_cast<float>(kernels[i].end - kernels[i].begin);
    }
    unite(kernels);
    cell.part[kCompute] = static_cast<float>(length(kernels));
  }
  known.insert(known.end(), waits.waits.begin(), waits.waits.end());
  unite(known);
  cell.part[kOther] = std::max(0.0F, cell.length() - static_cast<float>(length(known)));
  if (!kernels.empty() || cell.computations > 0) return;
  // Nothing says what it computed: all that it did between operations, and that is nothing else.
  cell.part[kCompute] = own_time(between(waits.arrivals, waits.ends, cell), own);
  cell.part[kOther] = 0;
}

}  // namespace convoy::trace::slow
