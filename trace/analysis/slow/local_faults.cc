#include "trace/analysis/slow/local_faults.h"

#include <algorithm>
#include <cmath>
#include <cstdarg>
#include <cstdio>
#include <set>

// Ranks, hosts and launches that are slow for good or from time to time. Stalls: stalls.cc.
namespace convoy::trace::slow {
namespace {

constexpr float kReference = 0.35F;  // quantile of peers: holds while up to half of them are slow
constexpr uint32_t kMemorySteps = 2048;
constexpr float kStretchMin = 0.5e9F;  // ns: what throttles does so for longer
constexpr float kAboveNoise = 4;

}  // namespace

std::string text(const char* format, ...) {
  char buffer[512];
  va_list arguments;
  va_start(arguments, format);
  std::vsnprintf(buffer, sizeof buffer, format, arguments);
  va_end(arguments);
  return buffer;
}

void LocalFaults::clear() {
  *this = LocalFaults();
}

void LocalFaults::learn(const View& view) {
  compute_.resize(view.ranks());
  data_.resize(view.ranks());
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const RankStep* cell = view.window.find(r, view.newest());
    if (cell == nullptr || cell->special) continue;
    compute_[r].learn(cell->part[kCompute]);
    data_[r].learn(cell->part[kData]);
  }
}

Table LocalFaults::excess(const View& view, std::initializer_list<Part> parts, const Bases& bases,
                          bool by_history) const {
  Table values(view.ranks(), view.steps.size());
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    for (size_t i = 0; i < view.steps.size(); ++i) {
      const RankStep* cell = view.cell(r, i);
      if (cell == nullptr || cell->special) continue;
      float sum = 0;
      for (const Part p : parts) sum += cell->part[p];
      values.at(r, i) = sum;
    }
  }
  std::vector<float> some;
  Table result(view.ranks(), view.steps.size());
  for (size_t i = 0; i < view.steps.size(); ++i) {
    // Of steps with more work, noise is larger as well.
    const float step_ns = std::max(view.step_ns, view.lengths[i]);
    if (!by_history && !view.roles.cohorts().empty()) {
      for (const auto& cohort : view.roles.cohorts()) {
        some.clear();
        for (const uint32_t r : cohort) {
          if (!std::isnan(values.at(r, i))) some.push_back(values.at(r, i));
        }
        const float reference = quantile(some, kReference);
        for (const uint32_t r : cohort) {
          result.at(r, i) = (values.at(r, i) - reference) / step_ns;
        }
      }
      continue;
    }
    // All may do more work from some step on: only growth beyond the others' counts.
    some.clear();
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      if (bases[r].value() != 0 && !std::isnan(values.at(r, i))) {
        some.push_back(values.at(r, i) / bases[r].value());
      }
    }
    const float growth = quantile(some, kReference);
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      if (bases[r].value() == 0) continue;
      result.at(r, i) = (values.at(r, i) - growth * bases[r].value()) / step_ns;
    }
  }
  return result;
}

namespace {

ChangeLimits limits_of(const View& view, const Table& table, uint32_t rank, float noise,
                       float spread) {
  const float own = noise_of(table.row(rank), table.columns());
  ChangeLimits limits;
  limits.noise = std::max(noise, 0.002F);
  if (!std::isnan(own)) limits.noise = std::max(limits.noise, std::min(own, 3 * limits.noise));
  limits.level = 0.75F * view.slow_share() + 3 * spread;
  return limits;
}

float confidence_of(const Change& change) {
  return std::min(0.99F, 0.6F + 0.02F * change.significance);
}

}  // namespace

// More tokens, or more to give away after the experts: more work, not slower work.
bool LocalFaults::explained_by_load(const View& view, uint32_t rank, size_t begin, size_t end,
                                    float level) const {
  double compute = 0, mine[2] = {}, usual[2] = {};  // tokens, bytes given
  size_t steps = 0;
  const uint32_t cohort = view.roles.cohort(rank);
  std::vector<float> others[2];
  for (size_t i = begin; i < end; ++i) {
    const RankStep* cell = view.cell(rank, i);
    if (cell == nullptr) continue;
    for (auto& values : others) values.clear();
    for (uint32_t r = 0; r < view.ranks(); ++r) {
      if (cohort != Roles::kNone && view.roles.cohort(r) != cohort) continue;
      const RankStep* other = view.cell(r, i);
      if (other == nullptr) continue;
      others[0].push_back(other->tokens), others[1].push_back(other->given);
    }
    compute += cell->part[kCompute], ++steps;
    mine[0] += cell->tokens, mine[1] += cell->given;
    for (int k = 0; k < 2; ++k) usual[k] += quantile(others[k], kReference);
  }
  if (steps == 0 || compute <= 0) return false;
  const double slowdown = level * view.step_ns * static_cast<double>(steps) / compute;
  const auto more = [&](int k) { return usual[k] > 0 ? mine[k] / usual[k] - 1 : 0; };
  return more(0) > 0.5 * slowdown || more(1) > 0.5 * slowdown;
}

void LocalFaults::remember(const View& view, const Table& excess,
                           const std::vector<Change>& changes) {
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const auto known = memory_.find(r);
    if (known != memory_.end()) {
      auto& history = known->second.excess;
      const float newest = excess.at(r, view.steps.size() - 1);
      if (!std::isnan(newest)) history.emplace_back(view.newest(), newest);
      if (history.size() > kMemorySteps) history.erase(history.begin());
    }
    if (!changes[r].found) continue;
    Memory& memory = memory_[r];
    if (known == memory_.end()) {
      for (size_t i = 0; i < view.steps.size(); ++i) {
        if (!std::isnan(excess.at(r, i)))
          memory.excess.emplace_back(view.steps[i], excess.at(r, i));
      }
    }
    memory.last_raised = view.newest();
  }
}

bool LocalFaults::is_periodic(const View& view, uint32_t rank, Finding& finding) const {
  const auto& history = memory_.at(rank).excess;
  std::vector<float> values;
  for (const auto& [step, e] : history) values.push_back(e);
  const float noise = noise_of(values.data(), values.size());  // before they are reordered
  const float high = quantile(values, 0.95), low = quantile(values, 0.1);
  const float middle = (high + low) / 2;
  // Of noise alone these two are three standard deviations apart.
  if (high - low < std::max(0.03F, std::isnan(noise) ? 0 : kAboveNoise * noise)) return false;
  // Some short steps that look well by chance are no rest.
  const auto rest = static_cast<size_t>(std::max(2.0F, std::ceil(kStretchMin / view.step_ns)));
  std::vector<uint32_t> begins;
  size_t on = 0, off = rest, ons = 0;
  for (const auto& [step, e] : history) {
    if (e > middle) {
      // One step that looks well amid a slow stretch is noise; so are single slow ones.
      if (off >= rest) begins.push_back(step), on = 0;
      off = 0, ++on, ++ons;
    } else {
      if (on == 1 && off == 0 && !begins.empty()) begins.pop_back(), --ons;
      on = 0, ++off;
    }
  }
  if (begins.size() < 2 || ons * 10 > history.size() * 9) return false;
  std::vector<float> gaps;
  for (size_t i = 1; i < begins.size(); ++i) {
    gaps.push_back(static_cast<float>(begins[i] - begins[i - 1]));
  }
  float sum = 0;
  for (const float e : values) sum += e > middle ? e : 0;
  const float stretch = static_cast<float>(ons) / static_cast<float>(begins.size());
  if (stretch * view.step_ns < kStretchMin) return false;
  const float cost = sum / static_cast<float>(values.size());
  // On the whole it costs less than what is told of others; but slow it is, again and again.
  if (cost < view.slow_share() / 4) return false;
  finding.cls = Class::kSlowComputePeriodic;
  finding.cost = cost;
  const float period = median(gaps);
  finding.period_s = period * view.step_ns * 1e-9F;
  finding.hold_steps = static_cast<uint32_t>(2 * period) + 2;
  finding.first_step = begins.front();
  finding.runner_up = Class::kSlowCompute;
  finding.confidence = std::min(0.97F, 0.8F + 0.03F * static_cast<float>(begins.size()));
  return true;
}

void LocalFaults::slow_hosts(const View& view, const Table& by_peers, const Table& by_history,
                             std::vector<Finding>& found, std::vector<bool>& told) const {
  const auto hosts = view.clock.hosts().size();
  if (hosts < 2) return;
  std::vector<std::vector<uint32_t>> ranks(hosts);
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    if (view.clock.host_of(r) != ClockModel::kNone) ranks[view.clock.host_of(r)].push_back(r);
  }
  // Peers all on the host itself can't show that it is slow.
  const auto within = [&](const std::vector<uint32_t>& mine) {
    for (const auto& cohort : view.roles.cohorts()) {
      if (std::find(cohort.begin(), cohort.end(), mine.front()) == cohort.end()) continue;
      return std::all_of(cohort.begin(), cohort.end(),
                         [&](uint32_t r) { return view.same_host(r, mine.front()); });
    }
    return true;
  };
  // A host with few ranks is noisier than the others, whose noise it is held against.
  std::vector<float> sizes;
  for (const auto& mine : ranks) sizes.push_back(static_cast<float>(mine.size()));
  const size_t least = std::max<size_t>(2, static_cast<size_t>(median(sizes) / 2));
  Table series(hosts, view.steps.size());
  std::vector<float> some;
  for (size_t h = 0; h < hosts; ++h) {
    if (ranks[h].size() < least || ranks[h].size() == view.ranks()) continue;
    const Table& table = within(ranks[h]) ? by_history : by_peers;
    for (size_t i = 0; i < view.steps.size(); ++i) {
      some.clear();
      for (const uint32_t r : ranks[h]) {
        if (!std::isnan(table.at(r, i))) some.push_back(table.at(r, i));
      }
      // All but a few must be slow.
      if (some.size() * 2 >= ranks[h].size()) series.at(h, i) = quantile(some, 0.3);
    }
  }
  const float spread = static_spread(series);
  const float noise = std::max(newest_spread(series), noise_of(series));
  for (size_t h = 0; h < hosts; ++h) {
    if (ranks[h].size() < least) continue;
    const ChangeLimits limits = limits_of(view, series, static_cast<uint32_t>(h),
                                          std::isnan(noise) ? 0.01F : noise, spread);
    const Change change = raised(series.row(h), series.columns(), limits);
    if (!change.found) continue;
    Finding f{.cls = Class::kSlowHost,
              .first_step = view.steps[change.begin],
              .last_step = view.newest(),
              .cost = change.level,
              .confidence = confidence_of(change),
              .runner_up = Class::kSlowCompute,
              .runner_up_confidence = 0.1F};
    f.culprit.hosts = {view.clock.hosts()[h]};
    for (const uint32_t r : ranks[h]) told[r] = true;
    f.evidence.push_back(
        {.rank = ranks[h].front(),
         .text = text("the %zu ranks of %s compute for %.1f %% of a step longer "
                      "than their peers on other hosts",
                      ranks[h].size(), f.culprit.hosts[0].c_str(), 100 * change.level)});
    f.summary = "all ranks of host " + f.culprit.hosts[0] + " compute slower than their peers";
    found.push_back(std::move(f));
  }
}

namespace {

// In the newest step that is known of it.
std::string excess_text(const View& view, const Table& excess, uint32_t rank) {
  for (size_t i = view.steps.size(); i-- > 0;) {
    const RankStep* cell = view.cell(rank, i);
    if (cell == nullptr || std::isnan(excess.at(rank, i))) continue;
    return text("computes for %.1f ms in step %u, %.1f %% of a step more than its peers",
                cell->part[kCompute] * 1e-6, view.steps[i], 100 * excess.at(rank, i));
  }
  return "computes longer than its peers";
}

}  // namespace

std::vector<Finding> LocalFaults::slow_ranks(const View& view) {
  const Table peers = excess(view, {kCompute}, compute_, false);
  const bool have_peers = !view.roles.cohorts().empty();
  const Table history = excess(view, {kCompute}, compute_, true);
  const float found_noise = noise_of(peers);
  // Where all differ from step to step (uneven work), nobody stands out.
  const float noise = std::max(newest_spread(peers), std::isnan(found_noise) ? 0.01F : found_noise);
  const float spread = have_peers ? static_spread(peers) : 0;
  std::vector<Finding> found;
  slow_.assign(view.ranks(), false);
  std::vector<bool> told(view.ranks(), false);
  slow_hosts(view, peers, history, found, told);
  std::vector<Change> changes(view.ranks());
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    changes[r] = raised(peers.row(r), peers.columns(), limits_of(view, peers, r, noise, spread));
    if (changes[r].found && !launch_bound_.empty() && launch_bound_[r]) changes[r].found = false;
    if (changes[r].found &&
        explained_by_load(view, r, changes[r].begin, view.steps.size(), changes[r].level)) {
      changes[r].found = false;
    }
    // On a slow host, one that is far slower still.
    if (changes[r].found && told[r]) {
      const auto host = std::find_if(found.begin(), found.end(), [&](const Finding& f) {
        return f.cls == Class::kSlowHost && f.culprit.hosts[0] == view.host(r);
      });
      if (host != found.end() && changes[r].level < 2 * host->cost + 0.02F)
        changes[r].found = false;
    }
    slow_[r] = changes[r].found || told[r];
  }
  remember(view, peers, changes);
  for (const auto& [r, memory] : memory_) {
    const Change& change = changes[r];
    Finding f{.cls = Class::kSlowCompute,
              .last_step = memory.last_raised,
              .cost = change.level,
              .confidence = confidence_of(change),
              .runner_up = Class::kSlowHost,
              .runner_up_confidence = 0.1F};
    if (change.found) f.first_step = view.steps[change.begin];
    const bool periodic = is_periodic(view, r, f);
    if (!change.found && !(periodic && view.newest() <= memory.last_raised + f.hold_steps))
      continue;
    f.culprit.ranks = {r};
    const RankStep* cell = view.window.find(r, view.newest());
    f.evidence.push_back({.rank = r, .text = excess_text(view, peers, r)});
    if (cell != nullptr && cell->inflicted > 0) {
      f.evidence.push_back({.rank = r,
                            .text = text("others waited for it for %.1f ms at collectives",
                                         cell->inflicted * 1e-6)});
    }
    if (cell != nullptr && cell->run_queue > 0.05F * view.step_ns) {
      f.evidence.push_back({.rank = r,
                            .text = text("its threads were ready but without a core for %.1f ms",
                                         cell->run_queue * 1e-6)});
    }
    f.summary = view.roles.describe(r) + " computes slower than its peers" +
                (periodic ? text(", every %.0f s", f.period_s) : std::string());
    found.push_back(std::move(f));
  }
  return found;
}

std::vector<Finding> LocalFaults::launches(const View& view) {
  const Table table = excess(view, {kLaunch}, compute_, false);
  launch_bound_.assign(view.ranks(), false);
  std::vector<Finding> found;
  if (view.roles.cohorts().empty()) return found;
  const float found_noise = noise_of(table);
  const float noise = std::max(newest_spread(table), std::isnan(found_noise) ? 0.01F : found_noise);
  for (uint32_t r = 0; r < view.ranks(); ++r) {
    const Change change =
        raised(table.row(r), table.columns(), limits_of(view, table, r, noise, 0));
    if (!change.found) continue;
    launch_bound_[r] = true;
    Finding f{.cls = Class::kHostLaunchBound,
              .first_step = view.steps[change.begin],
              .last_step = view.newest(),
              .cost = change.level,
              .confidence = confidence_of(change),
              .runner_up = Class::kSlowCompute,
              .runner_up_confidence = 0.1F};
    f.culprit.ranks = {r};
    f.evidence.push_back(
        {.rank = r,
         .text = text("hands work over for %.1f %% of a step longer than its peers",
                      100 * change.level)});
    f.summary = view.roles.describe(r) + "'s host hands work to the GPU too slowly";
    found.push_back(std::move(f));
  }
  return found;
}

std::vector<Finding> LocalFaults::find(const View& view) {
  learn(view);
  note_checkpoints(view, view.newest());
  std::vector<Finding> found = launches(view);
  const std::vector<Finding> slow = slow_ranks(view);
  for (const auto& part : {data(view), checkpoints(view), pauses(view), slow}) {
    found.insert(found.end(), part.begin(), part.end());
  }
  return found;
}

}  // namespace convoy::trace::slow
