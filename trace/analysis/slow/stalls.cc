#include "trace/analysis/slow/local_faults.h"

#include <algorithm>
#include <set>

// What takes long in single steps: reading data, checkpoints, pauses.
namespace convoy::trace::slow {
namespace {

constexpr float kEventSigmas = 8;
constexpr float kEventMin = 20e6F;  // ns: less is what a busy machine's scheduler takes
constexpr float kStallsMin = 0.3F;  // of a step, all together
constexpr float kPausesShare = 0.75F;
constexpr float kTails = 3;          // of savers, from the median to the slowest tenth
constexpr size_t kLateMax = 2;       // more at a time: the storage, or nothing
constexpr uint32_t kHoldSteps = 24;  // after the last stall; longer where they come more seldom

template <typename Events>
void forget(Events& events, uint32_t before) {
  while (!events.empty() && events.front().step < before) events.pop_front();
}

std::map<uint32_t, std::vector<std::pair<uint32_t, float>>> by_rank(const auto& events) {
  std::map<uint32_t, std::vector<std::pair<uint32_t, float>>> all;
  for (const auto& e : events) all[e.rank].emplace_back(e.step, e.cost);
  return all;
}

// As excesses are: a share of the usual step, or of this one where that is longer.
float event_min(const View& view, size_t column) {
  return kEventMin / std::max(view.step_ns, view.lengths[column]);
}

// Steps and costs of one rank's events, made a finding.
Finding stall(const View& view, Class cls, const std::vector<std::pair<uint32_t, float>>& events) {
  std::vector<float> gaps, costs;
  float sum = 0;
  for (size_t i = 0; i < events.size(); ++i) {
    if (i != 0) gaps.push_back(static_cast<float>(events[i].first - events[i - 1].first));
    costs.push_back(events[i].second);
    sum += events[i].second;
  }
  const float gap = gaps.empty() ? 0 : median(gaps);
  Finding f{.cls = cls, .first_step = events.front().first, .last_step = events.back().first};
  f.hold_steps = std::max(kHoldSteps, static_cast<uint32_t>(2.5F * gap));
  f.cost = std::min(1.0F, sum / static_cast<float>(view.newest() - f.first_step + 1));
  f.confidence = std::min(0.98F, 0.75F + 0.07F * static_cast<float>(events.size()));
  f.period_s = gap * view.step_ns * 1e-9F;
  return f;
}

// All that is no waiting, as a share of the step time: a span that was lost is no pause.
float longer_than_peers(const View& view, uint32_t rank, size_t column) {
  const auto own = [&](uint32_t r) {
    const RankStep* cell = view.cell(r, column);
    return cell == nullptr || cell->double_step ? kMissing : cell->length() - cell->waiting;
  };
  const uint32_t cohort = view.roles.cohort(rank);
  if (cohort == Roles::kNone) return kMissing;
  std::vector<float> others;
  for (const uint32_t r : view.roles.cohorts()[cohort]) {
    if (r != rank && !std::isnan(own(r))) others.push_back(own(r));
  }
  return (own(rank) - median(others)) / view.step_ns;
}

// Whether records of its operations were lost in this step, of which its peers tell more.
bool misses_operations(const View& view, uint32_t rank, uint32_t step) {
  const auto operations = [&](uint32_t r) {
    const RankStep* cell = view.window.find(r, step);
    return cell == nullptr ? kMissing : static_cast<float>(cell->operations);
  };
  const uint32_t cohort = view.roles.cohort(rank);
  if (cohort == Roles::kNone) return false;
  std::vector<float> of_peers;
  for (const uint32_t r : view.roles.cohorts()[cohort]) {
    if (!std::isnan(operations(r))) of_peers.push_back(operations(r));
  }
  return operations(rank) < median(of_peers);
}

}  // namespace

std::vector<Finding> LocalFaults::data(const View& view) {
  const size_t newest = view.steps.size() - 1;
  const float share = view.slow_share();
  const Table peers = excess(view, {kData}, data_, false);
  const Table history = excess(view, {kData}, data_, true);
  const float noise = noise_of(peers);
  const float least =
      std::max({share, event_min(view, newest), std::isnan(noise) ? 0 : kEventSigmas * noise});
  // The past of each rank: a stall of all shows only there. Growth along with the computation's is
  // more work.
  std::vector<float> growth, all;
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const RankStep* cell = view.window.find(r, view.newest());
    if (cell == nullptr || cell->special || compute_[r].value() == 0 || data_[r].value() <= 1)
      continue;
    const float usual =
        data_[r].value() * std::max(1.0F, 1.5F * cell->part[kCompute] / compute_[r].value());
    all.push_back((cell->part[kData] - usual) / view.step_ns);
  }
  const auto stalled = std::count_if(all.begin(), all.end(), [&](float e) { return e > least; });
  const bool of_all = all.size() >= 3 && static_cast<size_t>(stalled) * 2 > all.size();
  if (of_all) storage_events_.emplace_back(view.newest(), median(all));
  for (uint32_t r = 0; r < view.ranks() && !of_all; ++r) {
    const float e = peers.at(r, newest);
    if (!std::isnan(e) && e > least) data_events_.push_back({view.newest(), r, e, false});
  }
  forget(data_events_, view.newest() < 2000 ? 0 : view.newest() - 2000);

  std::vector<Finding> found;
  for (const auto& [rank, events] : by_rank(data_events_)) {
    float largest = 0;
    for (const auto& e : events) largest = std::max(largest, e.second);
    float sum = 0;
    for (const auto& e : events) sum += e.second;
    if (sum < kStallsMin) continue;
    Finding f = stall(view, Class::kDataLoaderStall, events);
    if (f.cost < kPausesShare * share) continue;
    f.culprit.ranks = {rank};
    f.runner_up = Class::kStorageStall;
    f.runner_up_confidence = 0.1F;
    f.evidence.push_back({.rank = rank,
                          .text = text("reading samples took %.0f %% of a step longer than its "
                                       "peers', %zu times since step %u, last in step %u",
                                       100 * largest, events.size(), f.first_step, f.last_step)});
    f.summary = view.roles.describe(rank) + " waits for its samples";
    found.push_back(std::move(f));
  }
  if (!storage_events_.empty()) {
    Finding f = stall(view, Class::kStorageStall, {storage_events_.begin(), storage_events_.end()});
    f.runner_up = Class::kDataLoaderStall;
    f.runner_up_confidence = 0.1F;
    f.evidence.push_back(
        {.text =
             text("in step %u most ranks read or wrote for %.0f %% of a step longer than before",
                  f.last_step, 100 * storage_events_.back().second)});
    f.summary = "shared storage stalls all ranks at the same time";
    found.push_back(std::move(f));
  }
  return found;
}

void LocalFaults::note_checkpoints(const View& view, uint32_t step) {
  std::vector<float> all;
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const RankStep* cell = view.window.find(r, step);
    if (cell != nullptr && !cell->double_step) {
      all.push_back(cell->part[kCheckpoint] / view.step_ns);
    }
  }
  const float usual = median(all);
  const float share = view.slow_share();
  // Among those that save: how long they take differs, and somebody is always the last.
  std::vector<float> saving;
  for (const float e : all) {
    if (e > 0) saving.push_back(e);
  }
  const float common = median(saving);
  const float tail = quantile(saving, 0.9) - common;
  std::vector<Event> late;
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const RankStep* cell = view.window.find(r, step);
    if (cell == nullptr || cell->double_step) continue;
    const float e = cell->part[kCheckpoint] / view.step_ns - usual;
    // What it takes is compared with a step: even once in a while, less than this is not worth it.
    const bool is_slow = e > std::max(4 * share, usual);
    // A rank whose wait for the others was lost seems to have saved for as long.
    if (is_slow && misses_operations(view, r, step)) continue;
    const bool stands_out = saving.size() < 4 || e + usual > 2 * common + kTails * tail;
    if (is_slow && stands_out) late.push_back({step, r, e, false});
  }
  if (late.size() <= kLateMax) {
    checkpoint_events_.insert(checkpoint_events_.end(), late.begin(), late.end());
  }
  if (usual > share) {
    std::vector<float> before;
    for (const auto& c : checkpoints_of_all_) before.push_back(c.second);
    const float typical = median(before);
    if (before.size() >= 2 && usual > 2 * typical && usual - typical > share) {
      storage_events_.emplace_back(step, usual - typical);
    } else {
      checkpoints_of_all_.emplace_back(step, usual);
      if (checkpoints_of_all_.size() > 8) checkpoints_of_all_.pop_front();
    }
  }
}

std::vector<Finding> LocalFaults::checkpoints(const View& view) const {
  std::vector<Finding> found;
  for (const auto& [rank, events] : by_rank(checkpoint_events_)) {
    Finding f = stall(view, Class::kCheckpointStall, events);
    f.culprit.ranks = {rank};
    f.runner_up = Class::kStorageStall;
    f.runner_up_confidence = 0.15F;
    f.evidence.push_back({.rank = rank,
                          .text = text("its checkpoint kept it for %.0f %% of a step longer than "
                                       "the others' in step %u",
                                       100 * events.back().second, f.last_step)});
    f.summary = view.roles.describe(rank) + " keeps all others waiting while it saves";
    found.push_back(std::move(f));
  }
  return found;
}

std::vector<Finding> LocalFaults::pauses(const View& view) {
  std::vector<Finding> found;
  if (view.steps.size() < 4) return found;
  // The step before the newest: so it is known that it was over afterwards.
  const size_t at = view.steps.size() - 2;
  const float share = view.slow_share();
  const Table own = excess(view, {kCompute, kGarbage, kOther, kLaunch}, compute_, false);
  const Table garbage = excess(view, {kGarbage}, compute_, false);
  const float found_noise = noise_of(own);
  const float noise = std::max(newest_spread(own), std::isnan(found_noise) ? 0.01F : found_noise);
  const float least = std::max({share, event_min(view, at), kEventSigmas * noise});
  std::vector<Event> fresh;
  for (uint32_t r = 0; r < view.ranks() && !view.roles.cohorts().empty(); ++r) {
    const RankStep* cell = view.cell(r, at);
    if (cell == nullptr || cell->special || slow_[r] || launch_bound_[r]) continue;
    const bool collects = garbage.at(r, at) > std::max(share / 2, 0.02F);
    const float e = collects ? garbage.at(r, at) : own.at(r, at);
    const auto calm = [&](size_t i) { return !(own.at(r, i) > e / 2); };
    if (!collects && (cell->lossy || e < least || !calm(at + 1))) continue;
    size_t begin = at;
    while (begin > 0 && !calm(begin - 1)) --begin;
    if (!collects && (begin == 0 || at - begin > 2)) continue;
    if (!collects && longer_than_peers(view, r, at) < e / 2) continue;
    if (!collects && explained_by_load(view, r, begin, at + 1, e)) continue;
    fresh.push_back({view.steps[collects ? at : begin], r, e, collects});
  }
  // Most of a replica at once has more work; nobody pauses by chance together.
  std::vector<uint32_t> in_replica(view.roles.replicas(), 0);
  for (const Event& e : fresh) ++in_replica[view.roles.replica(e.rank)];
  const uint32_t size = view.ranks() / view.roles.replicas();
  std::erase_if(fresh, [&](const Event& e) {
    return !e.garbage && size > 1 && 2 * in_replica[view.roles.replica(e.rank)] > size;
  });
  if (fresh.size() * 4 < view.ranks() || view.ranks() < 16) {
    pauses_.insert(pauses_.end(), fresh.begin(), fresh.end());
  }
  const uint32_t keep = std::max(2 * view.options.window_steps, 48U);
  forget(pauses_, view.newest() < keep ? 0 : view.newest() - keep);

  std::set<uint32_t> ranks;
  float sum = 0;
  size_t collections = 0;
  for (const Event& e : pauses_) ranks.insert(e.rank), sum += e.cost, collections += e.garbage;
  for (const auto& [rank, events] : by_rank(pauses_)) {
    if (events.size() < 2 || events.size() * 5 < pauses_.size() * 4 || collections != 0) continue;
    // Always the same one: not pauses by chance.
    Finding f = stall(view, Class::kSlowComputePeriodic, events);
    if (f.cost < share) continue;
    f.culprit.ranks = {rank};
    f.runner_up = Class::kHostPause;
    f.runner_up_confidence = 0.25F;
    f.evidence.push_back({.rank = rank,
                          .text = text("computed for %.0f %% of a step longer than its peers %zu "
                                       "times since step %u",
                                       100 * events.back().second, events.size(), f.first_step)});
    f.summary = view.roles.describe(rank) + text(" computes slower every %.0f s", f.period_s);
    found.push_back(std::move(f));
    return found;
  }
  const bool rotates = pauses_.size() >= 3 && ranks.size() >= 2;
  if (!rotates && collections < 2) return found;
  const float steps = static_cast<float>(view.newest() - pauses_.front().step + 1);
  if (sum / steps < kPausesShare * share) return found;
  Finding f{.cls = Class::kHostPause,
            .first_step = pauses_.front().step,
            .last_step = pauses_.back().step,
            .hold_steps = kHoldSteps,
            .cost = std::min(1.0F, sum / steps),
            .confidence = std::min(0.97F, 0.6F + 0.06F * static_cast<float>(pauses_.size()) +
                                              (collections != 0 ? 0.1F : 0)),
            .runner_up = Class::kSlowComputePeriodic,
            .runner_up_confidence = 0.15F};
  for (const Event& e : pauses_) {
    if (f.evidence.size() == 8) break;
    f.evidence.push_back({.rank = e.rank,
                          .text = text("paused for %.0f %% of a step in step %u%s", 100 * e.cost,
                                       e.step, e.garbage ? " (garbage collection)" : "")});
  }
  f.summary = text("%zu ranks paused %zu times, in turn; each pause holds up all", ranks.size(),
                   pauses_.size());
  found.push_back(std::move(f));
  return found;
}

}  // namespace convoy::trace::slow
