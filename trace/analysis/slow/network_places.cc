#include "trace/analysis/slow/network_faults.h"
#include "trace/analysis/slow/places.h"

#include <algorithm>
#include <limits>
#include <set>

// Where the network is slow, from which links (or groups) are slow and which are not.
namespace convoy::trace::slow {
namespace {

constexpr float kCostMin = 0.03F;  // of the step time; less is hidden
constexpr float kCostMinOfOperations = 0.05F;
constexpr float kRatioAlways = 1.5F;  // told even so …
constexpr float kSureWithin = 9;      // standard errors: what goes on within a host varies more
constexpr float kRatioWithin = 1.6F, kCostWithin = 0.08F;  // … and by itself, by one of these
constexpr float kSure = 12;                                // … with so many standard errors
constexpr float kLossy = 20;      // retransmits a second: packets are lost, not only slow
constexpr int64_t kSameTime = 4;  // steps
constexpr size_t kHostsMax = 3;   // that are slow within at the same time
constexpr float kWake = 0.5F, kWakeCost = 0.25F;
constexpr float kTrickle = 0.03F;  // of a rank's busiest link: the rest says little

Finding finding_of(const View& view, Class cls, uint32_t since, float significance, float cost) {
  Finding f{.cls = cls,
            .first_step = since,
            .last_step = view.newest(),
            .cost = std::clamp(cost, 0.0F, 1.0F),
            .confidence = std::min(0.97F, 0.6F + 0.02F * significance)};
  return f;
}

}  // namespace

std::vector<Finding> NetworkFaults::within_hosts(const View& view,
                                                 const std::vector<const Signal*>& hot,
                                                 const std::vector<Finding>& between) const {
  // Exchanges within a host wait for those of the same operation that leave it.
  const auto is_part_of = [&](const Signal& s) {
    return std::any_of(between.begin(), between.end(), [&](const Finding& f) {
      const bool is_named = names_rank(f.culprit, s.sender) || names_rank(f.culprit, s.receiver);
      if (f.cost > s.cost && s.is_link && is_named) return true;
      const auto since = static_cast<int64_t>(s.steps[s.change.begin]);
      return f.cost > 2 * s.cost && std::abs(since - int64_t{f.first_step}) <= kSameTime;
    });
  };
  std::map<uint32_t, std::vector<const Signal*>> of_host;
  for (const Signal* s : hot) {
    if (is_part_of(*s)) continue;
    const uint32_t rank = s->is_link ? s->sender : view.registry.groups()[s->group].ranks.front();
    of_host[view.clock.host_of(rank)].push_back(s);
  }
  std::vector<Finding> found;
  if (of_host.size() > kHostsMax) return found;  // other work, rather than so many faults
  for (const auto& [host, signals] : of_host) {
    const Signal* worst =
        *std::max_element(signals.begin(), signals.end(),
                          [](const Signal* a, const Signal* b) { return a->cost < b->cost; });
    Finding f = finding_of(view, Class::kSlowIntranode, worst->steps[worst->change.begin],
                           worst->change.significance, worst->cost);
    std::set<std::pair<uint32_t, uint32_t>> links;
    for (const Signal* s : signals) {
      if (s->is_link) links.insert({s->sender, s->receiver});
    }
    f.culprit.links.assign(links.begin(), links.end());
    if (links.empty()) {
      f.culprit.hosts = {view.clock.hosts()[host]};
      f.culprit.groups = {worst->group};
      f.confidence *= 0.8F;
    }
    f.runner_up = Class::kSlowCompute;
    f.runner_up_confidence = 0.1F;
    f.evidence.push_back({.rank = worst->sender,
                          .group = worst->group,
                          .text = text("transfers within host %s take %.2f times as long",
                                       view.clock.hosts()[host].c_str(), worst->ratio)});
    f.summary = "links within host " + view.clock.hosts()[host] + " are slow";
    found.push_back(std::move(f));
  }
  return found;
}

std::vector<Measure> NetworkFaults::measures_of(const View& view,
                                                const std::vector<const Signal*>& signals) {
  float least = std::numeric_limits<float>::max();  // traffic of the links that are slow
  std::vector<Measure> measures;
  for (const Signal* s : signals) {
    Measure m{.ranks = {s->sender, s->receiver},
              .is_link = s->is_link,
              .all_pairs = s->all_pairs,
              .is_raised = is_worth_it(view, *s),
              .is_lossy = s->retransmits > kLossy * s->seconds,
              .level = s->level,
              .error = s->error};
    if (s->is_link && m.is_raised) least = std::min(least, s->volume);
    if (!s->is_link) m.ranks = view.registry.groups()[s->group].ranks;
    measures.push_back(std::move(m));
  }
  // What slow links of as little traffic say, others that are not slow say too.
  for (size_t i = 0; i < signals.size(); ++i) {
    const bool has_less = 2 * signals[i]->volume < least;
    measures[i].is_minor = signals[i]->is_minor && !measures[i].is_raised && has_less;
  }
  return measures;
}

// What the measurements of the network between hosts say of the place.
std::vector<Finding> NetworkFaults::between_hosts(const View& view,
                                                  const std::vector<const Signal*>& signals) const {
  const bool one_host = view.clock.hosts().size() <= 1;
  const std::vector<Measure> measures = measures_of(view, signals);
  Places places(
      measures,
      [&](uint32_t a, uint32_t b) { return a != b && (one_host || !view.same_host(a, b)); },
      [&](uint32_t r) { return view.clock.host_of(r); });
  struct Found {
    Place place;
    std::vector<const Signal*> slow;  // what it explains, most expensive first; not empty
  };
  const auto is_dearer = [](const Signal* a, const Signal* b) { return a->cost > b->cost; };
  std::vector<Found> all;
  for (Place& place : places.find()) {
    std::vector<const Signal*> slow;
    for (const uint32_t m : place.explained) {
      if (measures[m].is_raised) slow.push_back(signals[m]);
    }
    std::sort(slow.begin(), slow.end(), is_dearer);
    all.push_back({std::move(place), std::move(slow)});
  }
  std::stable_sort(all.begin(), all.end(), [&](const Found& a, const Found& b) {
    return is_dearer(a.slow.front(), b.slow.front());
  });
  std::vector<Finding> told;
  float most = 0, expensive = 0;
  for (const Found& one : all) {
    // What others are raised by in the wake of something far slower is not theirs.
    const float level = one.slow.front()->level, cost = one.slow.front()->cost;
    if (cost < kWakeCost * expensive || (level < kWake * most && cost < kWake * expensive))
      continue;
    most = std::max(most, level), expensive = std::max(expensive, cost);
    told.push_back(of_place(view, one.place, one.slow));
  }
  return told;
}

// `explained`: what is slow there, most expensive first; not empty.
Finding NetworkFaults::of_place(const View& view, const Place& place,
                                const std::vector<const Signal*>& explained) {
  const Signal& worst = *explained.front();
  Finding f = finding_of(view, place.cls, worst.steps[worst.change.begin],
                         worst.change.significance, worst.cost);
  f.runner_up = place.runner_up;
  f.runner_up_confidence = 0.5F * std::exp(std::min(0.0F, place.runner_up_score - place.score) / 4);
  switch (place.cls) {
    case Class::kSlowFabric:
      for (const uint32_t h : place.hosts) f.culprit.hosts.push_back(view.clock.hosts()[h]);
      f.summary = text("the network between %zu hosts (%s …) and the others is slow",
                       f.culprit.hosts.size(), f.culprit.hosts.front().c_str());
      if (place.hosts.size() == view.clock.hosts().size()) {
        f.summary = "the network between all hosts is slow";
      }
      break;
    case Class::kSlowLink:
      f.culprit.links = {{place.rank, place.peer}};
      f.summary = text("the link from rank %u to rank %u is slow", place.rank, place.peer);
      break;
    default:
      f.culprit.ranks = {place.rank};
      f.summary = view.roles.describe(place.rank) + (place.cls == Class::kSlowTx ? " sends slowly"
                                                     : place.cls == Class::kSlowRx
                                                         ? " receives slowly"
                                                         : "'s network is slow in both directions");
  }
  if (place.is_ambiguous && place.cls == Class::kSlowFabric) {
    f.confidence = 0.5F;
    f.summary += ", or another part of it that looks alike";
  } else if (place.is_ambiguous) {
    f.runner_up = place.cls;
    f.runner_up_confidence = 0.3F;
    f.cls = Class::kUnknown;
    f.culprit = {};
    f.confidence = 0.5F;
    f.summary = "the network is slower than before, and nothing tells where";
  }
  for (const Signal* s : explained) {
    if (s->is_link) f.slow_links.emplace_back(s->sender, s->receiver);
    if (!s->is_link && f.culprit.groups.size() < 8 && f.cls == Class::kUnknown) {
      f.culprit.groups.push_back(s->group);
    }
    if (f.evidence.size() >= 6) continue;
    f.evidence.push_back(
        {.rank = s->sender,
         .group = s->group,
         .text =
             s->is_link
                 ? text("rank %u to rank %u: %.2f times as long for a byte as before%s", s->sender,
                        s->receiver, s->ratio, s->retransmits > 0 ? ", with retransmits" : "")
                 : text("operations take %.2f times as long once all ranks have come", s->ratio)});
  }
  return f;
}

// Of links between hosts also what costs nothing yet. Operations take longer for many reasons.
bool NetworkFaults::is_worth_it(const View& view, const Signal& s) {
  if (!s.change.found) return false;
  if (s.within_host && !s.has_round_trip) {
    if (s.change.significance < kSureWithin) return false;
    if (s.ratio < kRatioWithin && s.cost < kCostWithin) return false;
  }
  if (s.cost >= std::max(view.busy, s.is_link ? kCostMin : kCostMinOfOperations)) return true;
  return s.is_link && !s.within_host && s.ratio >= kRatioAlways && s.change.significance > kSure;
}

std::vector<Finding> NetworkFaults::localise(const View& view, std::vector<Signal>& all) const {
  std::map<uint32_t, std::pair<float, float>> busiest;  // link out of, into a rank
  for (const Signal& s : all) {
    if (!s.is_link) continue;
    busiest[s.sender].first = std::max(busiest[s.sender].first, s.volume);
    busiest[s.receiver].second = std::max(busiest[s.receiver].second, s.volume);
  }
  const bool one_host = view.clock.hosts().size() <= 1;
  std::vector<const Signal*> between, within;
  for (Signal& s : all) {
    if (s.base <= 0 || s.error <= 0) continue;
    s.is_minor = s.is_link && s.volume < kTrickle * std::min(busiest[s.sender].first,
                                                             busiest[s.receiver].second);
    // Several ranks of one machine over TCP: a network all the same.
    if (!s.within_host || (one_host && s.has_round_trip)) {
      between.push_back(&s);
    } else if (is_worth_it(view, s)) {
      within.push_back(&s);
    }
  }
  std::vector<Finding> found = between_hosts(view, between);
  for (Finding& f : within_hosts(view, within, found)) found.push_back(std::move(f));
  return found;
}

}  // namespace convoy::trace::slow
