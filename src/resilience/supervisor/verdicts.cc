// What the job's tracer finds, as evidence. It sees which calls of which ranks don't fit together,
// far sooner than steps fail to come; but it hears of ranks late, so it may be wrong by then.
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <cmath>
#include <utility>

namespace convoy::resilience {
namespace {

// A step is seen so much later than it is done.
constexpr Nanos kVitalsAge = std::chrono::milliseconds(500);
constexpr int kLongSteps = 2;  // the longest of late, so often: what lasts longer is a hang
constexpr Nanos kSlowAgain = std::chrono::minutes(1);
constexpr size_t kNotesMax = 16;

}  // namespace

void Supervisor::verdict(const proto::Verdict& told) {
  Suspicion s{.kind = FaultKind::kHang, .ranks = {}, .text = told.text(), .cost = told.cost()};
  if (!std::isfinite(told.age_s()) || !std::isfinite(told.cost())) return;
  s.since = clock_->now() - std::chrono::duration_cast<Nanos>(
                                std::chrono::duration<double>(std::clamp(told.age_s(), 0.0, 1e6)));
  for (const int rank : told.ranks()) {
    if (rank < 0 || rank >= layout_.ranks()) return;
    s.ranks.push_back(rank);
  }
  switch (told.kind()) {
    case proto::Verdict::HANG:
      if (!s.ranks.empty()) suspicion_ = std::move(s);  // else the own limit knows as much
      return;
    case proto::Verdict::MISMATCH:
      s.kind = FaultKind::kMismatch;
      suspicion_ = std::move(s);
      return;
    case proto::Verdict::SLOW:
      return slow(s);
    default:
      return;
  }
}

// Goes before the own guess, which knows less of who waits for whom.
bool Supervisor::look_at_suspicion() {
  if (!suspicion_) return false;
  const bool holds = is_stuck(*suspicion_);
  if (holds && !is_certain(*suspicion_)) return false;  // not yet
  Suspicion s = *std::exchange(suspicion_, std::nullopt);
  std::string what = "the tracer found: " + s.text;
  // What the tracer infers from calls of several halted ranks may fit others better.
  if (const std::vector<int> halted = this->halted();
      s.kind == FaultKind::kHang && !halted.empty() && halted != s.ranks) {
    s.ranks = halted;
    what += "; but " + names("rank", halted) + (halted.size() == 1 ? " is" : " are") + " halted";
  }
  if (!holds) {
    note(what + "; but steps have been done since");
    return false;
  }
  fault(s.kind, s.ranks, what);
  return true;
}

// Nobody whom it is about (a mismatch: anybody) has done a step since, and what it is about is this
// generation.
bool Supervisor::is_stuck(const Suspicion& s) const {
  if (s.since < steady_at_) return false;
  const auto has_moved = [&](const Worker& w) {
    return !w.vitals.training || w.stepped_at > s.since + kVitalsAge;
  };
  if (s.ranks.empty()) {
    return std::none_of(workers_.begin(), workers_.end(), [&](const auto& entry) {
      return entry.second.rank != kNone && has_moved(entry.second);
    });
  }
  return std::all_of(s.ranks.begin(), s.ranks.end(), [&](int rank) {
    const Worker* w = of_rank(rank);
    return w != nullptr && !has_moved(*w);
  });
}

std::vector<int> Supervisor::halted() const {
  std::vector<int> ranks;
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    if (const Worker* w = of_rank(rank); w != nullptr && w->vitals.halted) ranks.push_back(rank);
  }
  return ranks;
}

// The tracer knows how long calls take, but a rank may be busy with what comes once in a while.
bool Supervisor::is_certain(const Suspicion& s) const {
  if (clock_->now() - s.since > kLongSteps * watch_.longest_step()) return true;
  return !halted().empty();
}

// Nothing is broken, so it is no incident unless the policy wants to move away.
void Supervisor::slow(const Suspicion& s) {
  if (phase_ != Phase::kSteady || !is_complete() || s.ranks.empty()) return;
  const TimePoint now = clock_->now();
  const auto [at, is_first] = slow_told_.try_emplace(s.ranks, now);
  if (!is_first && now - at->second < kSlowAgain) return;
  at->second = now;
  Fault fault{.kind = FaultKind::kSlow, .step = newest_step(), .at = elapsed_s()};
  fault.slow_down = s.cost;
  for (const int rank : s.ranks) fault.blocks.push_back(layout_.block_of(rank));
  std::sort(fault.blocks.begin(), fault.blocks.end());
  fault.blocks.erase(std::unique(fault.blocks.begin(), fault.blocks.end()), fault.blocks.end());
  const Plan plan = decide(job({}), state_.history, fault);
  const std::string what = "the tracer found: " + s.text;
  if (plan.action == Action::kNothing) return note(what + "; nothing is done: " + plan.reason);
  if (!has_state_without(plan.moves)) {
    return note(what + "; nothing is done: who would move has the only copy of its state");
  }
  open_incident(name_of(fault.kind), s.ranks, what);
  std::vector<int> nodes;
  for (const int rank : s.ranks) nodes.push_back(place_[static_cast<size_t>(rank)]);
  state_.history.push_back({fault, nodes, /*is_over=*/false});
  carry_out(plan, s.ranks);
}

// Whether each part of the model is also in a block that stays.
bool Supervisor::has_state_without(const std::vector<Move>& moves) const {
  const std::vector<Block> blocks = layout_.blocks();
  std::set<int> moving, parts;
  for (const Move& m : moves) moving.insert(m.block);
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    const int block = layout_.block_of(rank);
    if (!moving.contains(block)) parts.insert(blocks[static_cast<size_t>(block)].part);
  }
  return static_cast<int>(parts.size()) == layout_.parts();
}

// What is no incident, for `convoy status`.
void Supervisor::note(const std::string& text) {
  notes_.push_back({unix_now(), text});
  if (notes_.size() > kNotesMax) notes_.pop_front();
}

}  // namespace convoy::resilience
