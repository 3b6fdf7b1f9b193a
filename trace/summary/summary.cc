// The sink's side: what each event changes. Views are in views.cc.
#include "trace/summary/impl.h"
#include <convoy/base/units.h>
#include <convoy/trace/operation.h>
#include <convoy/trace/summary.h>

#include <algorithm>
#include <set>

namespace convoy::trace {
namespace {

constexpr size_t kIntervalsMax = 65536;  // that a rank keeps for steps that have not ended
constexpr size_t kIntervalsTogether = 48'000'000;
constexpr size_t kNamesMax = 1 << 16;
constexpr size_t kSignaturesMax = 1 << 20;

std::optional<Stretch> stretch_of(std::string_view name) {
  if (name == names::kForward || name == names::kBackward) return Stretch::kForward;
  if (name == names::kData) return Stretch::kData;
  if (name == names::kAwaitStage) return Stretch::kAwait;
  if (name == names::kReduceGradients) return Stretch::kReduce;
  if (name == names::kOptimizer) return Stretch::kOptimizer;
  if (name == names::kCheckpoint) return Stretch::kCheckpoint;
  if (name == names::kEvaluate) return Stretch::kEvaluate;
  if (name == names::kGarbage) return Stretch::kPause;
  if (name == names::kKernel) return Stretch::kKernel;
  return std::nullopt;
}

bool synchronises(const std::string& operation) {
  static const std::set<std::string> all = {"all_reduce", "all_gather", "reduce_scatter",
                                            "all_to_all", "barrier"};
  return all.contains(operation);
}

// Gradients are reduced beside the backward pass; what else ranks do together while they compute
// they wait for.
bool is_blocking(const std::string& kind) {
  return kind.find("dp") == std::string::npos &&
         (kind.starts_with("tp") || kind.starts_with("cp") || kind.starts_with("ep"));
}

std::string text_of(const Signature& s) {
  std::string text = s.operation;
  if (!s.dtype.empty()) text += " " + s.dtype;
  if (!s.reduction.empty()) text += " " + s.reduction;
  if (s.bytes > 0) text += " " + format_bytes(s.bytes);
  if (s.root >= 0) text += " root " + std::to_string(s.root);
  if (s.uneven) text += " uneven";
  return text;
}

}  // namespace

void Summary::Impl::reset(const JobInfo& job) {
  info = job;
  ranks.clear();
  ranks.resize(std::min(job.world_size, options.ranks_max));
  collectives.job(job);
  steps = JobSteps();
  signatures.clear();
  links = 0;
}

RankSummary* Summary::Impl::rank_of(uint32_t rank) {
  if (rank >= options.ranks_max || (info.world_size > 0 && rank >= info.world_size)) return nullptr;
  if (rank >= ranks.size()) ranks.resize(rank + 1);  // nobody has told how many there are
  return &ranks[rank];
}

void Summary::Impl::hear(int64_t root_time) {
  if (root_time == 0) return;
  if (first == 0 || root_time < first) first = root_time;
  now = std::max(now, root_time);
}

Operation Summary::Impl::on_root(uint32_t rank, Operation operation) const {
  operation.issued = clocks.root_time(rank, operation.issued);
  operation.started = clocks.root_time(rank, operation.started);
  operation.completed = clocks.root_time(rank, operation.completed);
  return operation;
}

const Summary::Impl::NameMeaning& Summary::Impl::name(uint32_t number) {
  static const NameMeaning nothing;
  if (number >= registry.names().size() || number >= kNamesMax) return nothing;
  if (number >= names.size()) names.resize(number + 1);
  NameMeaning& meaning = names[number];
  if (meaning.known) return meaning;
  const std::string& text = registry.names()[number];
  meaning.known = true;
  meaning.is_step = text == names::kStep;
  meaning.is_round_trip = text == names::kRoundTrip;
  meaning.stretch = stretch_of(text);
  meaning.link = link_figure(text);
  meaning.process = process_figure(text);
  return meaning;
}

const Summary::Impl::SignatureMeaning* Summary::Impl::signature(uint32_t number) {
  if (number >= registry.signatures().size() || number >= kSignaturesMax) return nullptr;
  if (number >= signatures.size()) signatures.resize(number + 1);
  SignatureMeaning& meaning = signatures[number];
  if (meaning.known) return &meaning;
  meaning.known = true;
  meaning.signature = registry.signatures()[number];
  const Signature& s = meaning.signature;
  meaning.text = text_of(s);
  meaning.synchronises = synchronises(s.operation);
  if (s.group < registry.groups().size()) {
    const Group* const group = collectives.group(s.group, registry.groups()[s.group]);
    meaning.has_group = group != nullptr;
    if (group != nullptr) {
      meaning.figures = &collectives.figures(group->kind, s);
      meaning.blocking = is_blocking(collectives.kinds()[group->kind]);
    }
  }
  return &meaning;
}

void Summary::Impl::keep(RankSummary& r, const Interval& interval) {
  const size_t most = std::clamp<size_t>(kIntervalsTogether / std::max<size_t>(1, ranks.size()),
                                         1024, kIntervalsMax);
  if (r.intervals.size() >= most) {
    r.intervals.erase(r.intervals.begin(),
                      r.intervals.begin() + static_cast<ptrdiff_t>(r.intervals.size() / 2));
  }
  r.intervals.push_back(interval);
}

void Summary::Impl::add_operation(uint32_t rank, RankSummary& r, const Operation& operation) {
  const SignatureMeaning* const meaning = signature(operation.signature);
  if (meaning == nullptr || !meaning->has_group) {
    ++ignored;
    return;
  }
  ++operations;
  ++r.operations;
  const bool is_message = meaning->signature.is_message();
  const uint8_t kind = collectives.find(meaning->signature.group)->kind;
  if (operation.completed > operation.issued) {
    meaning->figures->seen.add(static_cast<uint64_t>(operation.completed - operation.issued));
    meaning->figures->bytes += meaning->signature.bytes;
    // Who sends need not wait.
    if (meaning->signature.operation != "send") {
      keep(r, {.begin = operation.started != 0 ? operation.started : operation.issued,
               .end = operation.completed,
               .stretch = is_message ? Stretch::kMessage : Stretch::kCollective,
               .kind = kind,
               .blocking = meaning->blocking});
    }
  }
  if (is_message) {
    add_message(r, operation, meaning->signature);
  } else {
    add_collective(rank, on_root(rank, operation), *meaning);
  }
}

void Summary::Impl::add_collective(uint32_t rank, const Operation& operation,
                                   const SignatureMeaning& meaning) {
  const uint32_t id = meaning.signature.group;
  Group& group = *collectives.group(id, registry.groups()[id]);
  hear(operation.completed);
  const Instance* const whole = collectives.add(group, rank, operation);
  if (whole == nullptr) return;
  const Timing timing = timing_of(*whole);
  meaning.figures->transfer.add(static_cast<uint64_t>(timing.transfer()));
  meaning.figures->skew.add(static_cast<uint64_t>(timing.skew()));
  const uint32_t last = group.info.ranks[timing.last_member];
  if (last < ranks.size()) ranks[last].late_us += static_cast<double>(timing.lateness()) * 1e-3;
  if (!meaning.synchronises) return;
  const auto earliest = std::ranges::min_element(whole->members, {}, &Member::completed);
  const auto out = static_cast<size_t>(earliest - whole->members.begin());
  clocks.order(last, timing.last_arrival, group.info.ranks[out], earliest->completed);
}

void Summary::Impl::add_message(RankSummary& r, const Operation& operation,
                                const Signature& signature) {
  if (signature.operation != "recv" || operation.completed == 0) return;
  Link* const link = link_of(r, signature.peer);
  if (link == nullptr) return;
  Rolled& bytes = (*link)[LinkFigure::kMessageBytes];
  Rolled& time = (*link)[LinkFigure::kMessageTime];
  bytes.known = time.known = true;  // counted here, from nothing on
  bytes.set(bytes.now + signature.bytes);
  // When the transfer itself has begun is not told by all backends.
  if (operation.started == 0 || operation.completed <= operation.started) return;
  time.set(time.now + static_cast<uint64_t>(operation.completed - operation.started));
}

void Summary::Impl::add_span(RankSummary& r, const SpanEvent& span) {
  ++spans;
  const NameMeaning& meaning = name(span.name);
  if (span.end <= span.begin) return;
  if (meaning.is_step) {
    r.ended.push_back({static_cast<uint32_t>(std::min<uint64_t>(span.value, UINT32_MAX)),
                       span.thread, span.begin, span.end});
  } else if (meaning.stretch) {
    keep(
        r,
        {.begin = span.begin, .end = span.end, .stretch = *meaning.stretch, .thread = span.thread});
  }
}

Link* Summary::Impl::link_of(RankSummary& r, int64_t peer) {
  if (peer < 0 || peer >= options.ranks_max || links >= options.links_max) return nullptr;
  const size_t before = r.counters.links().size();
  Link* const link = r.counters.link(static_cast<uint32_t>(peer));
  links += r.counters.links().size() - before;
  return link;
}

void Summary::Impl::add_counter(RankSummary& r, const CounterEvent& counter) {
  const NameMeaning& meaning = name(counter.name);
  r.counters.pass(counter.time);
  if (meaning.process) {
    r.counters[*meaning.process].set(counter.value);
  } else if (meaning.link || meaning.is_round_trip) {
    Link* const link = link_of(r, counter.peer);
    if (link == nullptr) return;
    if (meaning.link) {
      (*link)[*meaning.link].set(counter.value);
    } else {
      link->round_trip = counter.value;
    }
  }
}

void Summary::Impl::add_state(uint32_t rank, RankSummary& r, const RankState& state) {
  const int64_t time = clocks.root_time(rank, state.time);
  r.last = std::max(r.last, time);
  hear(time);
  r.life = state.life;
  r.exit_code = state.exit_code;
  r.lost = state.lost;
  r.shed = state.shed;
  r.counters.pass(state.time);
  r.doing.clear();
  if (!state.open.empty() && state.open.back().name < registry.names().size()) {
    r.doing = registry.names()[state.open.back().name];
  }
  r.pending.clear();
  for (const Operation& operation : state.pending) {
    const SignatureMeaning* const meaning = signature(operation.signature);
    if (meaning == nullptr || !meaning->has_group) continue;
    r.pending.push_back(on_root(rank, operation));
    if (!meaning->signature.is_message()) add_collective(rank, r.pending.back(), *meaning);
  }
}

void Summary::Impl::split_steps(uint32_t rank, RankSummary& r, size_t count) {
  if (count == 0) return;
  std::ranges::stable_sort(r.intervals, {}, &Interval::begin);
  std::vector<Interval> within;
  int64_t done = 0;
  for (size_t i = 0; i < count; ++i) {
    const RankSummary::OpenStep& open = r.ended[i];
    within.clear();
    for (const Interval& interval : r.intervals) {
      if (interval.begin >= open.end) break;
      const bool of_any_thread = interval.stretch >= Stretch::kKernel;
      if (interval.end > open.begin && (of_any_thread || interval.thread == open.thread)) {
        within.push_back(interval);
      }
    }
    RankStep step;
    step.step = open.step;
    step.begin = clocks.root_time(rank, open.begin);
    step.total = static_cast<float>(static_cast<double>(open.end - open.begin) * 1e-3);
    step.parts = split(open.begin, open.end, within);
    step.late = static_cast<float>(r.late_us / static_cast<double>(count));
    r.steps.add(step, options.window_steps);
    steps.add(rank, step);
    hear(clocks.root_time(rank, open.end));
    done = std::max(done, open.end);
  }
  r.late_us = 0;
  r.ended.erase(r.ended.begin(), r.ended.begin() + static_cast<ptrdiff_t>(count));
  std::erase_if(r.intervals, [&](const Interval& i) { return i.end <= done; });
}

Summary::Summary(const Registry& registry, const SummaryOptions& options)
    : impl_(std::make_unique<Impl>(registry, options)) {
  impl_->options.window_steps = std::clamp(options.window_steps, 1U, 256U);
}
Summary::~Summary() = default;

void Summary::job(const JobInfo& job) {
  if (job == impl_->info) return;
  impl_->reset(job);
}

void Summary::batch(const Batch& batch) {
  Impl& s = *impl_;
  RankSummary* const r = s.rank_of(batch.rank);
  if (r == nullptr) {
    ++s.ignored;
    return;
  }
  r->heard = true;
  ++s.batches;
  ++r->batches;
  if (r->number != 0 && batch.number > r->number + 1) r->missing += batch.number - r->number - 1;
  r->number = batch.number;
  if (!batch.host.empty()) s.clocks.place(batch.rank, batch.host);
  if (batch.pid != 0) r->pid = batch.pid;
  if (batch.received != 0 && batch.state) {
    s.clocks.received(batch.rank, batch.state->time, batch.received);
  }
  const size_t ended_before = r->ended.size();
  for (const Operation& operation : batch.operations) s.add_operation(batch.rank, *r, operation);
  for (const SpanEvent& span : batch.spans) s.add_span(*r, span);
  for (const CounterEvent& counter : batch.counters) s.add_counter(*r, counter);
  if (batch.state) s.add_state(batch.rank, *r, *batch.state);
  s.hear(batch.received);
  // Rings are drained one after the other: what belongs to a step may come a batch later.
  s.split_steps(batch.rank, *r, ended_before);
}

void Summary::clock(const ClockSample& sample) {
  impl_->clocks.sample(sample);
}

void Summary::set_verdicts(const std::vector<Verdict>& verdicts) {
  impl_->told = verdicts;
  impl_->verdicts = nlohmann::ordered_json::array();
  for (const Verdict& v : verdicts) impl_->verdicts.push_back(verdict_json(v, impl_->registry));
}

void Summary::set_hints(const std::vector<Hint>& hints) {
  impl_->hints = nlohmann::ordered_json::array();
  for (const Hint& h : hints) impl_->hints.push_back(hint_json(h, impl_->registry));
}

void Summary::finish() {
  for (uint32_t rank = 0; rank < impl_->ranks.size(); ++rank) {
    RankSummary& r = impl_->ranks[rank];
    impl_->split_steps(rank, r, r.ended.size());
  }
}

int64_t Summary::now() const {
  return impl_->now;
}

}  // namespace convoy::trace
