// Feeds the analyses, and keeps the verdicts: one for each cause, told when it is new, when it has
// changed, and when it is over.
#include "trace/analysis/ledger.h"
#include "trace/analysis/mismatch.h"
#include "trace/analysis/slow/slow_analysis.h"
#include "trace/analysis/stuck.h"
#include "trace/analysis/wait_graph.h"
#include <convoy/trace/diagnose.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace convoy::trace {
namespace {

constexpr size_t kVerdictsMax = 4096;
// A cause that is not seen for so long is over.
constexpr int64_t kOverAfter = 2'000'000'000;
// The same of what is stuck: batches of those that wait may be late.
constexpr int64_t kStuckOverAfter = 8'000'000'000;
constexpr int64_t kStepTold = 60'000'000'000;
// What a step of a clock does to the times around it.
constexpr int64_t kStepBefore = 5'000'000'000, kStepAfter = 10'000'000'000;

bool is_stuck(const Verdict& v) {
  return (v.cls >= Class::kDesyncOrder && v.cls <= Class::kMessageUnmatched && v.cost >= 1) ||
         (v.cls == Class::kUnknown && v.cost >= 1);
}
bool is_slow(Class c) {
  return (c >= Class::kSlowCompute && c <= Class::kWarmUp) ||
         (c >= Class::kImbalanceStage && c <= Class::kImbalanceData);
}

template <class T>
bool share_any(const std::vector<T>& a, const std::vector<T>& b) {
  return std::any_of(a.begin(), a.end(),
                     [&](const T& x) { return std::find(b.begin(), b.end(), x) != b.end(); });
}

bool is_same_culprit(const Culprit& a, const Culprit& b) {
  if (a == b) return true;
  return share_any(a.ranks, b.ranks) || share_any(a.links, b.links) ||
         (a.ranks.empty() && b.ranks.empty() && share_any(a.hosts, b.hosts)) ||
         (a.ranks.empty() && b.ranks.empty() && a.links.empty() && b.links.empty() &&
          share_any(a.groups, b.groups));
}

bool differs(const Verdict& a, const Verdict& b) {
  return a.cls != b.cls || a.culprit.ranks != b.culprit.ranks ||
         a.culprit.links != b.culprit.links || a.culprit.hosts != b.culprit.hosts ||
         std::abs(a.confidence - b.confidence) > 0.05 || std::abs(a.cost - b.cost) > 0.02;
}

}  // namespace

struct Diagnoser::Impl {
  struct Standing {
    size_t verdict = 0;  // in `all`
    int64_t seen = 0;    // when it was found last
    bool is_found = false;
  };

  Impl(const Registry& r, const DiagnoserOptions& o)
      : registry(r), options(o), ledger(r, o), slow(r, o) {
    start_anew();
  }
  void start_anew() {
    join = std::make_unique<Join>(registry);
    mismatches = std::make_unique<Mismatches>(ledger, clocks, *join);
  }

  std::vector<Verdict> find(int64_t now);
  std::vector<Verdict> clock_steps() const;
  bool is_explained(const Verdict& v, const std::vector<Verdict>& found) const;
  void place(Verdict found, int64_t now, std::vector<size_t>& told);
  // Where `found` stands already: null if nowhere.
  Standing* place_of(const Verdict& found);
  void end(Standing& standing, int64_t at, std::vector<size_t>& told);
  void withdraw_at(size_t verdict, int64_t now, std::vector<size_t>& told);
  void withdraw(uint64_t id, int64_t now, std::vector<size_t>& told);
  void withdraw_explained(const std::vector<Verdict>& found, int64_t now,
                          std::vector<size_t>& told);

  const Registry& registry;
  DiagnoserOptions options;
  ClockModel clocks;
  Ledger ledger;
  SlowAnalysis slow;
  std::unique_ptr<Join> join;
  std::unique_ptr<Mismatches> mismatches;
  std::vector<Verdict> all;  // as they began
  std::vector<Standing> standing;
  std::vector<Verdict> renamed;  // since the last call: what verdicts were called before
  std::vector<Verdict> by_onset;
  bool has_restarted = false;
};

std::vector<Verdict> Diagnoser::Impl::clock_steps() const {
  std::vector<Verdict> found;
  for (const ClockStep& s : clocks.steps()) {
    if (ledger.horizon() - s.time > kStepTold) continue;
    Verdict v = make_verdict(Class::kClockStep, {}, s.time, 0.95);
    v.culprit.hosts = {clocks.hosts()[s.host]};
    v.cost = 0;
    const std::string by = std::to_string(s.amount / 1'000'000) + " ms";
    const std::vector<uint32_t> ranks = clocks.ranks_of(s.host);
    if (!ranks.empty()) add_evidence(v, ranks.front(), {}, "its host's clock went ahead by " + by);
    v.summary = "host " + clocks.hosts()[s.host] + ": the clock jumped by " + by;
    found.push_back(std::move(v));
  }
  return found;
}

// What is slow only because something is stuck, or because a clock was set.
bool Diagnoser::Impl::is_explained(const Verdict& v, const std::vector<Verdict>& found) const {
  return std::any_of(found.begin(), found.end(), [&](const Verdict& f) {
    if (is_stuck(f)) return v.onset >= f.onset - options.hang_floor.count();
    if (f.cls != Class::kClockStep) return false;
    if (v.onset < f.onset - kStepBefore || v.onset > f.onset + kStepAfter) return false;
    // What goes on for long after it is something else that began at the same time.
    if (ledger.horizon() > f.onset + kStepAfter + kStepBefore) return false;
    const auto on_host = [&](uint32_t r) {
      const uint32_t h = clocks.host_of(r);
      return h != ClockModel::kNone && clocks.hosts()[h] == f.culprit.hosts.front();
    };
    return share_any(v.culprit.hosts, f.culprit.hosts) ||
           std::any_of(v.culprit.ranks.begin(), v.culprit.ranks.end(), on_host) ||
           std::any_of(v.culprit.links.begin(), v.culprit.links.end(),
                       [&](const auto& l) { return on_host(l.first) || on_host(l.second); });
  });
}

std::vector<Verdict> Diagnoser::Impl::find(int64_t now) {
  const std::vector<Cause> causes = WaitGraph(ledger, clocks, *join).causes();
  std::vector<Verdict> found = mismatches->find(causes);
  for (Verdict& v : Stuck(ledger, clocks).find(causes, found)) found.push_back(std::move(v));
  for (Verdict& v : find_losses(ledger, clocks)) found.push_back(std::move(v));
  for (Verdict& v : clock_steps()) found.push_back(std::move(v));
  for (Verdict& v : slow.find(now, clocks)) found.push_back(std::move(v));
  return found;
}

Diagnoser::Impl::Standing* Diagnoser::Impl::place_of(const Verdict& found) {
  const auto same = [&](const Standing& s) {
    const Verdict& v = all[s.verdict];
    if (found.id != 0 || v.id != 0) return v.id == found.id;
    return !s.is_found && v.cls == found.cls && is_same_culprit(v.culprit, found.culprit);
  };
  // The same trouble, of which more is known by now.
  const auto better = [&](const Standing& s) {
    const Verdict& v = all[s.verdict];
    return !s.is_found && is_stuck(v) && is_stuck(found) && s.seen < ledger.horizon();
  };
  auto at = std::find_if(standing.begin(), standing.end(), same);
  if (at == standing.end()) at = std::find_if(standing.begin(), standing.end(), better);
  if (at != standing.end()) return &*at;
  // What was over, and comes back.
  const auto past = std::find_if(all.begin(), all.end(), [&](const Verdict& v) {
    return found.id != 0 && v.id == found.id && !v.withdrawn;
  });
  if (past == all.end()) return nullptr;
  standing.push_back({static_cast<size_t>(past - all.begin()), 0, false});
  return &standing.back();
}

void Diagnoser::Impl::place(Verdict found, int64_t now, std::vector<size_t>& told) {
  Standing* const at = place_of(found);
  if (at == nullptr) {
    if (all.size() >= kVerdictsMax) return;
    found.told = now;
    told.push_back(all.size());
    standing.push_back({all.size(), ledger.horizon(), true});
    all.push_back(std::move(found));
    return;
  }
  at->is_found = true;
  at->seen = ledger.horizon();
  Verdict& v = all[at->verdict];
  const bool has_changed = differs(v, found) || v.cleared != 0;
  found.told = v.told;
  if (v.due != 0 && (found.due == 0 || v.due < found.due)) found.due = v.due;
  if (v.id != 0 && (v.cls != found.cls || v.culprit != found.culprit)) {
    if (v.cls != found.cls) found.told = now;
    renamed.push_back(v);
    renamed.back().cleared = now;
    renamed.back().withdrawn = true;
  }
  if ((v.cls == found.cls || v.id != 0) && v.onset != 0) {
    found.onset = std::min(v.onset, found.onset);
  }
  v = std::move(found);
  if (has_changed) told.push_back(at->verdict);
}

void Diagnoser::Impl::withdraw_at(size_t verdict, int64_t now, std::vector<size_t>& told) {
  all[verdict].withdrawn = true;
  if (all[verdict].cleared == 0) all[verdict].cleared = now;
  told.push_back(verdict);
}

void Diagnoser::Impl::withdraw(uint64_t id, int64_t now, std::vector<size_t>& told) {
  std::erase_if(standing, [&](const Standing& s) { return all[s.verdict].id == id; });
  for (size_t i = 0; i < all.size(); ++i) {
    if (all[i].id == id && !all[i].withdrawn) withdraw_at(i, now, told);
  }
}

// What was told before the step of a clock that explains it was known.
void Diagnoser::Impl::withdraw_explained(const std::vector<Verdict>& found, int64_t now,
                                         std::vector<size_t>& told) {
  std::vector<Verdict> steps;
  for (const Verdict& f : found) {
    if (f.cls == Class::kClockStep) steps.push_back(f);
  }
  std::erase_if(standing, [&](const Standing& s) {
    const Verdict& v = all[s.verdict];
    if (s.is_found || !is_slow(v.cls) || !is_explained(v, steps)) return false;
    withdraw_at(s.verdict, now, told);
    return true;
  });
}

void Diagnoser::Impl::end(Standing& s, int64_t at, std::vector<size_t>& told) {
  all[s.verdict].cleared = at;
  told.push_back(s.verdict);
}

Diagnoser::Diagnoser(const Registry& registry, const DiagnoserOptions& options)
    : impl_(std::make_unique<Impl>(registry, options)) {}
Diagnoser::~Diagnoser() = default;

void Diagnoser::job(const JobInfo& job) {
  Impl& d = *impl_;
  d.slow.job(job);
  if (!d.ledger.job(job)) return;
  d.start_anew();
  d.clocks.restart();
  d.has_restarted = true;
}

void Diagnoser::batch(const Batch& batch) {
  Impl& d = *impl_;
  if (batch.generation > d.ledger.info().generation) {
    JobInfo next = d.ledger.info();
    next.generation = batch.generation;
    job(next);
  }
  if (d.ledger.batch(batch, d.clocks, *d.join)) d.slow.batch(batch, d.clocks);
}

void Diagnoser::clock(const ClockSample& sample) {
  impl_->clocks.sample(sample);
}

std::vector<Verdict> Diagnoser::diagnose(int64_t now) {
  Impl& d = *impl_;
  std::vector<size_t> told;
  if (d.has_restarted) {
    for (Impl::Standing& s : d.standing) d.end(s, now, told);
    d.standing.clear();
    d.has_restarted = false;
  }
  for (Impl::Standing& s : d.standing) s.is_found = false;
  std::vector<Verdict> found = d.find(now);
  // Those that stand already find theirs first, so that a better explanation takes a free one.
  for (Verdict& v : found) {
    if (v.withdrawn) {
      d.withdraw(v.id, now, told);
    } else if (!is_slow(v.cls) || !d.is_explained(v, found)) {
      d.place(v, now, told);
    }
  }
  d.withdraw_explained(found, now, told);
  std::erase_if(d.standing, [&](Impl::Standing& s) {
    const int64_t over_after = is_stuck(d.all[s.verdict]) ? kStuckOverAfter : kOverAfter;
    if (s.is_found || d.ledger.horizon() - s.seen < over_after) return false;
    d.end(s, now, told);
    return true;
  });
  d.by_onset.clear();
  for (const Verdict& v : d.all) {
    if (!v.withdrawn) d.by_onset.push_back(v);
  }
  std::stable_sort(d.by_onset.begin(), d.by_onset.end(),
                   [](const Verdict& a, const Verdict& b) { return a.onset < b.onset; });
  std::vector<Verdict> result = std::exchange(d.renamed, {});
  for (const size_t i : told) result.push_back(d.all[i]);
  return result;
}

const std::vector<Verdict>& Diagnoser::verdicts() const {
  return impl_->by_onset;
}
std::vector<Hint> Diagnoser::hints() const {
  return impl_->slow.hints();
}

}  // namespace convoy::trace
