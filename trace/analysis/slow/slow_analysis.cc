#include "trace/analysis/slow/slow_analysis.h"

#include "trace/analysis/slow/findings.h"
#include "trace/analysis/slow/hints.h"
#include "trace/analysis/slow/imbalance.h"
#include "trace/analysis/slow/local_faults.h"
#include "trace/analysis/slow/network_faults.h"
#include "trace/analysis/slow/step_builder.h"

#include <algorithm>
#include <map>
#include <set>

namespace convoy::trace {
namespace {

using slow::Finding;

// Steps that come out of a rank's first ones are not judged: what warms up is slow.
constexpr size_t kStepsMin = 5;
constexpr float kWarmUpFactor = 1.4F;
constexpr uint32_t kWarmUpTold = 12;  // steps after it
// A step is complete once so many ranks have told of it …
constexpr double kNearlyAll = 0.95;
// … or half of them have, and half of them are so much further.
constexpr uint32_t kStepsLate = 3;
// So many steps a rank may be ahead of what is judged: batches may hold many short ones.
constexpr uint32_t kAhead = 8;

// So many slow ranks that have begun within so many steps wait for more evidence.
constexpr ptrdiff_t kSwarm = 3;
constexpr uint32_t kSwarmSteps = 7;

// What has begun so many steps before uneven work was seen, or later, and lasts shorter, is that.
constexpr uint32_t kUnevenBefore = 12, kUnevenSteps = 16;
constexpr size_t kKnownMax = 4096;

// Findings of one family about the same thing are one and the same verdict.
int family_of(Class cls) {
  switch (cls) {
    case Class::kSlowCompute:
    case Class::kSlowComputePeriodic:
    case Class::kSlowHost:
      return 1;
    case Class::kSlowNic:
    case Class::kSlowTx:
    case Class::kSlowRx:
    case Class::kSlowLink:
    case Class::kSlowFabric:
    case Class::kLinkFlap:
    case Class::kUnknown:
      return 2;
    default:
      return 10 + static_cast<int>(cls);
  }
}

}  // namespace

struct SlowAnalysis::Impl {
  struct Known {
    Verdict verdict;
    uint32_t first_step = 0, last_step = 0, hold_steps = 0;
    bool is_over = false;
    std::vector<std::pair<uint32_t, uint32_t>> slow_links;
  };

  Impl(const Registry& r, const DiagnoserOptions& o)
      : registry(r),
        options(o),
        window(std::max(o.window_steps, 8U) + kAhead),
        flows(r, window.steps()),
        links(window.steps()),
        builder(r, window, flows, links) {}

  void start(const JobInfo& info);
  void go_on(const ClockModel& clock);
  void close_steps();
  bool judge_next(const ClockModel& clock);
  void judge(uint32_t step, const ClockModel& clock);
  bool make_view(uint32_t step, slow::View& view);
  Finding warm_up(const slow::View& view) const;
  static float busy_share(const slow::View& view);
  void settle(std::vector<Finding>& found, const slow::View& view);
  void tell(const Finding& finding, const slow::View& view);
  bool same(const Verdict& verdict, const Finding& finding, const ClockModel& clock) const;
  Known& known_of(const Finding& finding, const slow::View& view);
  void withdraw(const Finding& uneven);
  int64_t begin_of(uint32_t step, const Culprit& culprit, const slow::View& view) const;

  const Registry& registry;
  DiagnoserOptions options;
  JobInfo info;
  slow::Roles roles{JobInfo{}};
  slow::Window window;
  slow::Flows flows;
  slow::Links links;
  slow::StepBuilder builder;
  slow::LocalFaults local;
  slow::NetworkFaults network;
  slow::Imbalance imbalance;
  std::map<uint32_t, uint32_t> told_of;  // ranks that have finished a step, of steps not judged yet
  std::set<uint32_t> held;               // ranks with steps that are not closed yet
  bool has_begun = false;
  uint32_t judged = 0;
  struct {
    uint32_t last = 0;
    float factor = 1;
  } warm;                    // the slow steps at the beginning
  std::vector<Known> known;  // what has been told, oldest first
  uint64_t last_id = 0;
  std::vector<Hint> hints;
};

SlowAnalysis::SlowAnalysis(const Registry& registry, const DiagnoserOptions& options)
    : impl_(std::make_unique<Impl>(registry, options)) {}
SlowAnalysis::~SlowAnalysis() = default;

void SlowAnalysis::Impl::start(const JobInfo& job) {
  info = job;
  roles = slow::Roles(job);
  window.resize(job.world_size);
  flows.clear();
  links.clear();
  builder.resize(job.world_size);
  local.clear();
  network.clear();
  imbalance.clear();
  told_of.clear();
  held.clear();
  has_begun = false;
  judged = 0;
  warm = {};
  hints.clear();
}

void SlowAnalysis::job(const JobInfo& info) {
  if (info == impl_->info) return;
  impl_->known.clear();
  impl_->start(info);
}

void SlowAnalysis::batch(const Batch& batch, const ClockModel& clock) {
  Impl& all = *impl_;
  if (batch.rank >= all.info.world_size || batch.generation != all.info.generation) return;
  all.builder.batch(batch);
  const uint32_t next = all.builder.next_of(batch.rank);
  if (next == 0) return;
  if (!all.has_begun) all.judged = next - 1;
  all.has_begun = true;
  all.held.insert(batch.rank);
  all.go_on(clock);
}

// Ranks go through their steps together, whatever they come in.
void SlowAnalysis::Impl::go_on(const ClockModel& clock) {
  while (true) {
    close_steps();
    if (judge_next(clock)) continue;
    if (!told_of.empty() || held.empty()) return;
    uint32_t next = UINT32_MAX;  // their numbers have jumped
    for (const uint32_t r : held) next = std::min(next, builder.next_of(r));
    judged = next - 1;
  }
}

void SlowAnalysis::Impl::close_steps() {
  std::vector<uint32_t> finished;
  std::erase_if(held, [&](uint32_t r) {
    builder.close_steps(r, judged + kAhead, finished);
    return builder.next_of(r) == 0;
  });
  for (const uint32_t step : finished) {
    if (step > judged) ++told_of[step];
  }
}

// False: the next step is not complete.
bool SlowAnalysis::Impl::judge_next(const ClockModel& clock) {
  if (told_of.empty()) return false;
  const auto [step, ranks] = *told_of.begin();
  const auto share = [&](uint32_t of) { return static_cast<double>(of) / info.world_size; };
  const auto later = told_of.lower_bound(step + kStepsLate);
  const bool is_late = later != told_of.end() && share(later->second) >= 0.5;
  if (share(ranks) < kNearlyAll && !is_late) return false;
  if (share(ranks) >= 0.5) judge(step, clock);
  judged = step;
  told_of.erase(told_of.begin());
  return true;
}

float SlowAnalysis::Impl::busy_share(const slow::View& view) {
  std::vector<float> shares;
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    float waited = 0, all = 0;  // the counter may be read more seldom than steps end
    for (const uint32_t step : view.steps) {
      const slow::RankStep* cell = view.window.find(r, step);
      if (cell != nullptr) waited += cell->run_queue, all += cell->length();
    }
    if (all > 0) shares.push_back(waited / all);
  }
  return slow::median(shares);
}

// False: there is nothing to judge yet.
bool SlowAnalysis::Impl::make_view(uint32_t step, slow::View& view) {
  std::vector<float> lengths, warm_ones;
  const uint32_t first = step > options.window_steps ? step - options.window_steps + 1 : 1;
  for (uint32_t s = first; s <= step; ++s) {
    size_t special = 0, warming = 0;
    std::vector<float> of_step, ordinary;
    for (uint32_t r = 0; r < window.ranks(); ++r) {
      const slow::RankStep* cell = window.find(r, s);
      if (cell == nullptr) continue;
      special += cell->special, warming += cell->warm_up;
      of_step.push_back(cell->length() - cell->part[slow::kCheckpoint]);
      if (!cell->special) ordinary.push_back(of_step.back());
    }
    const size_t there = of_step.size();
    if (warming * 2 > there) {
      warm_ones.push_back(slow::median(of_step));
      warm.last = std::max(warm.last, s);
    }
    if (there == 0 || special * 2 > there) continue;
    view.steps.push_back(s);
    view.lengths.push_back(slow::median(ordinary));
    lengths.push_back(slow::median(of_step));
  }
  if (view.steps.empty()) return false;
  std::vector<float> all = lengths;
  const float usual = slow::median(all);
  // Only at the very beginning: steps that get faster.
  size_t slow_ones = 0;
  while (first <= 2 && slow_ones < lengths.size() && lengths[slow_ones] > kWarmUpFactor * usual) {
    warm_ones.push_back(lengths[slow_ones]);
    warm.last = std::max(warm.last, view.steps[slow_ones++]);
  }
  view.steps.erase(view.steps.begin(), view.steps.begin() + static_cast<ptrdiff_t>(slow_ones));
  view.lengths.erase(view.lengths.begin(),
                     view.lengths.begin() + static_cast<ptrdiff_t>(slow_ones));
  view.step_ns = std::max(usual, 1.0F);
  view.warm_until = warm.last;
  view.busy = busy_share(view);
  if (!warm_ones.empty()) warm.factor = std::max(1.0F, slow::median(warm_ones) / view.step_ns);
  return !view.steps.empty();
}

void SlowAnalysis::Impl::judge(uint32_t step, const ClockModel& clock) {
  slow::View view{.registry = registry,
                  .options = options,
                  .roles = roles,
                  .window = window,
                  .flows = flows,
                  .links = links,
                  .clock = clock,
                  .steps = {},
                  .lengths = {},
                  .step_ns = 1,
                  .warm_until = 0,
                  .busy = 0};
  flows.forget(step > 2 ? step - 2 : 0);
  if (!make_view(step, view)) return;
  if (view.newest() != step) return local.note_checkpoints(view, step);
  std::vector<Finding> found = local.find(view);
  for (auto& more : {network.find(view), imbalance.find(view)}) {
    found.insert(found.end(), more.begin(), more.end());
  }
  if (view.steps.size() < kStepsMin) return;
  settle(found, view);
  if (warm.last != 0 && step <= warm.last + kWarmUpTold) found.push_back(warm_up(view));
  for (const Finding& f : found) tell(f, view);
  for (const Finding& f : found) withdraw(f);
  for (Known& k : known) k.is_over |= step > k.last_step + k.hold_steps;
  if (known.size() > kKnownMax) known.erase(known.begin());
  if (step % 8 == 0 || view.steps.size() == kStepsMin) hints = slow::make_hints(view);
}

// Nobody's fault; it explains why the first steps took long.
Finding SlowAnalysis::Impl::warm_up(const slow::View& view) const {
  Finding f{.cls = Class::kWarmUp,
            .first_step = 1,
            .last_step = view.newest(),
            .cost = 1 - 1 / warm.factor,
            .confidence = 0.9F};
  f.evidence.push_back({.text = slow::text("until step %u, steps took %.1f times as long as after",
                                           warm.last, warm.factor)});
  f.summary = "the first steps are slow, as they are when things warm up";
  return f;
}

// Where two findings are about the same ranks, the one that explains more stays.
void SlowAnalysis::Impl::settle(std::vector<Finding>& found, const slow::View& view) {
  const auto drop = [&](auto&& is_explained) { std::erase_if(found, is_explained); };
  const std::vector<Finding> all = found;
  // Work that is dealt out anew in each step looks like ranks that are slow now and then.
  for (const Finding& load : all) {
    if (load.cls != Class::kImbalanceData && load.cls != Class::kImbalanceExpert) continue;
    // Busy experts also have more to send at a time.
    drop([&](const Finding& f) {
      const bool network = family_of(f.cls) == 2 || f.cls == Class::kSlowIntranode;
      return load.cls == Class::kImbalanceExpert && network && f.cost < options.slow_share;
    });
    drop([&](const Finding& f) {
      const bool compute = family_of(f.cls) == 1 || f.cls == Class::kHostPause;
      return compute && (f.cls == Class::kSlowComputePeriodic || f.first_step + 12 > f.last_step);
    });
  }
  // Several that become slow at the same time: faults don't come in swarms, uneven work does.
  const auto is_fresh = [&](const Finding& f) {
    const bool pauses = f.cls == Class::kHostPause &&
                        std::none_of(f.evidence.begin(), f.evidence.end(), [](const Evidence& e) {
                          return e.text.find("garbage") != std::string::npos;
                        });
    return (family_of(f.cls) == 1 || f.cls == Class::kHostLaunchBound || pauses) &&
           f.first_step + kSwarmSteps > view.newest();
  };
  const auto fresh = std::count_if(found.begin(), found.end(), is_fresh);
  const bool pausing = std::any_of(found.begin(), found.end(), [&](const Finding& f) {
    return f.cls == Class::kHostPause && is_fresh(f);
  });
  if (fresh >= kSwarm || pausing) drop(is_fresh);
  for (const Finding& stage : all) {
    if (stage.cls != Class::kImbalanceStage) continue;
    std::vector<uint32_t> hosts;
    size_t ranks = 0;
    const auto in_stage = [&](uint32_t r) {
      return roles.stage(r) == static_cast<uint32_t>(stage.culprit.stage);
    };
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      if (!in_stage(r)) continue;
      ++ranks;
      const uint32_t h = view.clock.host_of(r);
      if (std::find(hosts.begin(), hosts.end(), h) == hosts.end()) hosts.push_back(h);
    }
    const bool from_start = stage.first_step <= 6;
    for (const Finding& other : all) {
      if (family_of(other.cls) != 1) continue;
      const bool its_host = other.cls == Class::kSlowHost && hosts.size() == 1 &&
                            view.clock.hosts()[hosts[0]] == other.culprit.hosts[0];
      const bool its_rank =
          ranks == 1 && !other.culprit.ranks.empty() && in_stage(other.culprit.ranks[0]);
      if ((its_host || its_rank) && !from_start) {
        drop([&](const Finding& f) {
          return f.cls == Class::kImbalanceStage && f.culprit == stage.culprit;
        });
      } else if (its_host || its_rank ||
                 (other.cls == Class::kSlowHost && hosts.size() > 1 &&
                  std::any_of(hosts.begin(), hosts.end(), [&](uint32_t h) {
                    return h != ClockModel::kNone &&
                           view.clock.hosts()[h] == other.culprit.hosts[0];
                  }))) {
        drop([&](const Finding& f) { return f.cls == other.cls && f.culprit == other.culprit; });
      }
    }
  }
}

bool SlowAnalysis::Impl::same(const Verdict& v, const Finding& f, const ClockModel& clock) const {
  if (family_of(v.cls) != family_of(f.cls)) return false;
  if (v.culprit == f.culprit) return true;
  if (v.cls == Class::kSlowFabric && f.cls == Class::kSlowFabric) return true;
  // A host that was taken for a rank of it; a NIC that was taken for a link.
  for (const auto* pair : {&v.culprit, &f.culprit}) {
    const Culprit& one = *pair;
    const Culprit& other = pair == &v.culprit ? f.culprit : v.culprit;
    for (const uint32_t r : one.ranks) {
      if (family_of(v.cls) == 2 && slow::names_rank(other, r)) return true;
      const uint32_t h = clock.host_of(r);
      if (h != ClockModel::kNone && std::find(other.hosts.begin(), other.hosts.end(),
                                              clock.hosts()[h]) != other.hosts.end()) {
        return true;
      }
    }
    for (const auto& [sender, receiver] : one.links) {
      if (other.links.empty() &&
          (slow::names_rank(other, sender) || slow::names_rank(other, receiver))) {
        return true;
      }
    }
  }
  return false;
}

int64_t SlowAnalysis::Impl::begin_of(uint32_t step, const Culprit& culprit,
                                     const slow::View& view) const {
  uint32_t rank = 0;
  if (!culprit.ranks.empty()) rank = culprit.ranks[0];
  if (!culprit.links.empty()) rank = culprit.links[0].first;
  const slow::RankStep* cell = rank < view.ranks() ? window.find(rank, step) : nullptr;
  for (uint32_t r = 0; cell == nullptr && r < view.ranks(); ++r) {
    cell = window.find(r, step);
    rank = r;
  }
  if (cell != nullptr) return view.clock.root_time(rank, cell->begin);
  // Longer ago than the window.
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    cell = window.find(r, view.newest());
    if (cell == nullptr) continue;
    const auto since = static_cast<double>(view.newest() - step) * view.step_ns;
    return view.clock.root_time(r, cell->begin) - static_cast<int64_t>(since);
  }
  return 0;
}

// What stands already, or seemed to be over and had begun before. Several are one after all.
SlowAnalysis::Impl::Known& SlowAnalysis::Impl::known_of(const Finding& f, const slow::View& view) {
  Known* oldest = nullptr;
  for (Known& k : known) {
    // What links are slow stays, while it becomes clear whose fault it is.
    const bool shares_links =
        std::any_of(k.slow_links.begin(), k.slow_links.end(), [&](const auto& l) {
          return std::find(f.slow_links.begin(), f.slow_links.end(), l) != f.slow_links.end();
        });
    if (k.verdict.withdrawn || (!shares_links && !same(k.verdict, f, view.clock))) continue;
    const bool comes_and_goes = f.cls == Class::kSlowComputePeriodic ||
                                f.cls == Class::kImbalanceData || f.cls == Class::kImbalanceExpert;
    const bool recurs = comes_and_goes && k.verdict.culprit.ranks == f.culprit.ranks;
    if (k.is_over && k.last_step + 1 < f.first_step && !recurs) continue;
    if (oldest == nullptr) {
      oldest = &k;
    } else if (k.verdict.culprit == f.culprit || k.is_over) {
      k.verdict.withdrawn = true;
    }
  }
  if (oldest != nullptr) return *oldest;
  Known& fresh = known.emplace_back();
  fresh.verdict.id = ++last_id;
  fresh.verdict.onset = begin_of(f.first_step, f.culprit, view);
  fresh.first_step = f.first_step;
  return fresh;
}

// Uneven work was taken for ranks that are slow or pause, before enough of it was seen.
void SlowAnalysis::Impl::withdraw(const Finding& f) {
  if (f.cls != Class::kImbalanceData && f.cls != Class::kImbalanceExpert) return;
  for (Known& k : known) {
    const Verdict& v = k.verdict;
    const bool looks_like_it = family_of(v.cls) == 1 || v.cls == Class::kHostPause ||
                               v.cls == Class::kSlowIntranode || v.cls == Class::kHostLaunchBound;
    if (!looks_like_it || k.first_step + kUnevenBefore < f.first_step) continue;
    // A rank that is slow in each step for long is a matter of its own.
    if (k.last_step >= k.first_step + kUnevenSteps && v.cls != Class::kHostPause) continue;
    k.verdict.withdrawn = true;
  }
}

void SlowAnalysis::Impl::tell(const Finding& f, const slow::View& view) {
  Known* const at = &known_of(f, view);
  at->is_over = false;
  at->slow_links = f.slow_links;
  Verdict& v = at->verdict;
  v.cls = f.cls;
  v.culprit = f.culprit;
  v.confidence = f.confidence;
  v.runner_up = f.runner_up;
  v.runner_up_confidence = std::min<double>(f.runner_up_confidence, 0.9 * f.confidence);
  v.cost = std::clamp(f.cost, 0.0F, 1.0F);
  v.period_s = f.period_s;
  v.evidence = f.evidence;
  at->first_step = std::min(at->first_step, f.first_step);
  v.summary = f.summary +
              slow::text(": %.1f %% of the step time since step %u", 100 * v.cost, at->first_step);
  at->last_step = f.last_step;
  at->hold_steps = f.hold_steps;
}

std::vector<Verdict> SlowAnalysis::find(int64_t now, const ClockModel& clock) {
  (void)clock;
  std::vector<Verdict> all;
  for (auto& k : impl_->known) {
    Verdict& v = k.verdict;
    if (k.is_over && !v.withdrawn) continue;
    if (v.told == 0) v.told = now;
    v.action = action_of(v.cls);
    all.push_back(v);
  }
  std::erase_if(impl_->known, [](const auto& k) { return k.verdict.withdrawn; });
  return all;
}

std::vector<Hint> SlowAnalysis::hints() const {
  return impl_->hints;
}

}  // namespace convoy::trace
