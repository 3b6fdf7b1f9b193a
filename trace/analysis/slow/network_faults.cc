#include "trace/analysis/slow/network_faults.h"

#include <algorithm>
#include <set>
#include <unordered_map>

// What is slow: signals and their changes. Where it is: network_places.cc.
namespace convoy::trace::slow {
namespace {

constexpr float kLevel = 0.26F;        // of the logarithm: 30 % longer
constexpr float kLevelWithin = 0.36F;  // the same within a host, where kinds of traffic mix more
constexpr float kComparable = 0.22F;   // of the logarithm of the slowest one's: less is an echo
constexpr size_t kLikeMin = 8;
constexpr float kStaticFactor = 2.5F;  // a link that was slow from the first step on
constexpr size_t kNewest = 4;          // values that a level is estimated from
constexpr float kFlapLevel = 0.4F;
constexpr float kFlapSigmas = 8;
constexpr float kFlapsMin = 0.1F;  // of a step, all together

}  // namespace

void NetworkFaults::add_links(const View& view, std::vector<Signal>& signals,
                              std::vector<float>& values) {
  const auto& links = view.links.links();
  link_base_.resize(links.size());
  for (size_t l = 0; l < links.size(); ++l) {
    const Link& link = links[l];
    Signal s{.is_link = true, .sender = link.sender, .receiver = link.receiver};
    s.within_host = view.same_host(link.sender, link.receiver);
    s.has_round_trip = link.has_round_trip;
    s.type = uint64_t{view.roles.difference(link.sender, link.receiver)} << 1 | s.within_host;
    // By samples rather than by steps, the newest at the right.
    const size_t columns = view.steps.size();
    s.steps.assign(columns, 0);
    values.resize(values.size() + columns, kMissing);
    float steps = 0;
    size_t left = std::min(columns, link.samples.size());
    for (auto at = link.samples.rbegin(); left > 0 && at->step > view.warm_until; ++at, --left) {
      const size_t column = columns - 1 - static_cast<size_t>(at - link.samples.rbegin());
      s.steps[column] = at->step;
      if (at->bytes > 0) values[values.size() - columns + column] = at->send_wait / at->bytes;
      s.volume += at->bytes, s.retransmits += at->retransmits;
      steps += static_cast<float>(at->steps);
    }
    s.volume /= std::max(steps, 1.0F);
    s.seconds = steps * view.step_ns * 1e-9F;
    if (s.steps.back() == view.newest()) link_base_[l].learn(values.back());
    s.base = link_base_[l].value();
    signals.push_back(s);
  }
}

void NetworkFaults::add_flows(const View& view, std::vector<Signal>& signals,
                              std::vector<float>& values) {
  const auto& flows = view.flows.flows();
  flow_base_.resize(flows.size());
  for (size_t f = 0; f < flows.size(); ++f) {
    const Flow& flow = flows[f];
    const Signature& signature = view.registry.signatures()[flow.signature];
    Signal s{.is_link = flow.is_message,
             .sender = flow.sender,
             .receiver = flow.receiver,
             .group = flow.group,
             .all_pairs = signature.operation == "all_to_all"};
    const auto& ranks = view.registry.groups()[flow.group].ranks;
    uint32_t dimensions = 0;
    if (flow.is_message) {
      s.within_host = view.same_host(flow.sender, flow.receiver);
      dimensions = view.roles.difference(flow.sender, flow.receiver);
    } else {
      s.within_host = true;
      for (const uint32_t r : ranks) {
        s.within_host &= view.same_host(ranks[0], r);
        if (r < view.ranks() && ranks[0] < view.ranks()) {
          dimensions |= view.roles.difference(ranks[0], r);
        }
      }
    }
    s.type = std::hash<std::string>()(signature.operation) ^
             (signature.bytes * 0x9E3779B97F4A7C15U + dimensions * 2 + s.within_host +
              (flow.is_message ? 0 : ranks.size() << 40));
    s.steps = view.steps;
    for (const uint32_t step : view.steps) {
      const FlowStep* at = flow.steps.find(step);
      values.push_back(at != nullptr && at->count != 0 && at->network > 0 ? at->mean() : kMissing);
      if (!std::isnan(values.back())) s.volume += at->count;
    }
    s.volume /= static_cast<float>(view.steps.size());
    flow_base_[f].learn(values.back());
    s.base = flow_base_[f].value();
    signals.push_back(s);
  }
}

// Of what has not changed, too: it tells where the fault is not.
void NetworkFaults::estimate(const float* row, size_t columns, float noise, Signal& s) {
  std::vector<float> newest;
  for (size_t i = columns; i-- > 0 && newest.size() < kNewest;) {
    if (!std::isnan(row[i])) newest.push_back(row[i]);
  }
  if (newest.empty()) return;
  s.error = 1.25F * noise / std::sqrt(static_cast<float>(newest.size()));
  s.level = s.change.found ? s.change.level : median(newest);
}

// What becomes slower within all hosts alike is more work.
void NetworkFaults::take_common(const std::vector<size_t>& members, Table& ratios) {
  std::vector<float> some;
  for (size_t i = 0; i < ratios.columns() && members.size() >= kLikeMin; ++i) {
    some.clear();
    for (const size_t m : members) {
      if (!std::isnan(ratios.at(m, i))) some.push_back(ratios.at(m, i));
    }
    const float common = std::max(0.0F, quantile(some, 0.35));
    for (const size_t m : members) ratios.at(m, i) -= common;
  }
}

void NetworkFaults::judge(const View& view, std::vector<Signal>& signals,
                          std::vector<float>& values) {
  const size_t columns = view.steps.size();
  std::unordered_map<uint64_t, std::vector<size_t>> types;
  for (size_t s = 0; s < signals.size(); ++s) types[signals[s].type].push_back(s);
  std::vector<float> noise(signals.size(), 0.1F);
  Table ratios(signals.size(), columns);
  std::vector<float> some;
  for (const auto& [type, members] : types) {
    some.clear();
    for (const size_t m : members) {
      if (signals[m].base > 0) some.push_back(signals[m].base);
    }
    // What is slow from the first step on has no better past: it stands out among its like. Only
    // where all others agree and carry as much are they alike.
    float usual = 0, most = 0, volume = 0;
    if (some.size() >= kLikeMin && quantile(some, 0.9) < 2 * quantile(some, 0.1)) {
      usual = median(some);
      most = kStaticFactor * quantile(some, 0.9);
      some.clear();
      for (const size_t m : members) some.push_back(signals[m].volume);
      volume = median(some);
    }
    for (const size_t m : members) {
      float base = signals[m].base > 0 ? signals[m].base : usual;
      const bool is_alike = signals[m].volume < 1.5F * volume && signals[m].volume > volume / 1.5F;
      if (most > 0 && base > most && is_alike) base = usual;
      signals[m].base = base;
      if (base <= 0) continue;
      for (size_t i = 0; i < columns; ++i) {
        ratios.at(m, i) = std::log(values[m * columns + i] / base);
      }
    }
    if (signals[members[0]].within_host) take_common(members, ratios);
    some.clear();
    for (const size_t m : members) {
      const float own = noise_of(ratios.row(m), columns);
      if (!std::isnan(own)) some.push_back(own);
    }
    const float common = some.empty() ? 0.1F : std::max(median(some), 0.01F);
    for (const size_t m : members) {
      const float own = noise_of(ratios.row(m), columns);
      noise[m] = std::isnan(own) ? common : std::max(common, std::min(own, 3 * common));
    }
  }
  const auto least_of = [](const Signal& s) { return s.within_host ? kLevelWithin : kLevel; };
  float most = 0;
  for (size_t s = 0; s < signals.size(); ++s) {
    if (signals[s].base <= 0) continue;
    const ChangeLimits limits{.level = least_of(signals[s]), .noise = noise[s]};
    signals[s].change = raised(ratios.row(s), columns, limits);
    if (signals[s].change.found) most = std::max(most, signals[s].change.level);
  }
  for (size_t s = 0; s < signals.size(); ++s) {
    if (signals[s].base <= 0) continue;
    // Once something is slow for sure, its neighbours need less proof: they tell what it is.
    if (most > 0 && !signals[s].change.found) {
      const ChangeLimits limits{.level = std::max(least_of(signals[s]), kComparable * most),
                                .noise = noise[s],
                                .sigmas = 2.5F,
                                .steps = 2};
      signals[s].change = raised(ratios.row(s), columns, limits);
    }
    if (signals[s].change.level < kComparable * most) signals[s].change.found = false;
    estimate(ratios.row(s), columns, noise[s], signals[s]);
    signals[s].ratio = std::exp(signals[s].change.found ? signals[s].change.level : 0);
    // What the excess comes to in a step.
    const float lasting = signals[s].base * (signals[s].ratio - 1);
    signals[s].cost = lasting * signals[s].volume / view.step_ns;
  }
  flaps(view, signals, ratios, noise);
}

// A link that was slow in the step before last (or up to four before that) and is not now.
void NetworkFaults::flaps(const View& view, const std::vector<Signal>& signals, const Table& ratios,
                          const std::vector<float>& noise) {
  const size_t columns = ratios.columns();
  std::vector<Event> fresh;
  std::vector<size_t> known;
  for (size_t s = 0; s < signals.size(); ++s) {
    if (!signals[s].is_link || signals[s].change.found) continue;
    if (signals[s].within_host && !signals[s].has_round_trip) continue;
    const float least = std::max(kFlapLevel, kFlapSigmas * noise[s]);
    known.clear();
    for (size_t i = columns; i-- > 0;) {
      if (!std::isnan(ratios.at(s, i))) known.push_back(i);
    }
    const auto high = [&](size_t k) { return ratios.at(s, known[k]) > least; };
    // Counters may come more seldom than steps: the newest must be new.
    if (known.size() < 4 || known[0] != columns - 1 || high(0) || !high(1)) continue;
    if (signals[s].steps.back() != view.newest()) continue;
    size_t length = 0;
    float most = 0;
    for (size_t k = 1; k < known.size() && high(k); ++k, ++length) {
      most = std::max(most, ratios.at(s, known[k]));
    }
    if (length > 4 || length + 1 >= known.size()) continue;
    const float cost = signals[s].base * (std::exp(most) - 1) * signals[s].volume / view.step_ns;
    if (cost < 0.01F) continue;
    fresh.push_back({signals[s].steps[known[length]], signals[s].sender, signals[s].receiver,
                     std::exp(most), cost});
  }
  // Many at once: not one link's doing.
  if (fresh.size() > 2) {
    const auto worst =
        std::max_element(fresh.begin(), fresh.end(),
                         [](const Event& a, const Event& b) { return a.ratio < b.ratio; });
    const Event only = *worst;
    const auto near = std::count_if(fresh.begin(), fresh.end(),
                                    [&](const Event& e) { return e.ratio > 0.6F * only.ratio; });
    fresh.clear();
    if (near == 1) fresh.push_back(only);
  }
  events_.insert(events_.end(), fresh.begin(), fresh.end());
  while (events_.size() > 4096) events_.pop_front();
}

std::vector<Finding> NetworkFaults::flapping(const View& view,
                                             const std::vector<Finding>& lasting) const {
  std::map<std::pair<uint32_t, uint32_t>, std::vector<Event>> of;
  for (const Event& e : events_) of[{e.sender, e.receiver}].push_back(e);
  std::vector<Finding> found;
  for (const auto& [link, events] : of) {
    float most = 0, sum = 0;
    for (const Event& e : events) most = std::max(most, e.ratio), sum += e.cost;
    if (sum < kFlapsMin || (events.size() < 2 && most < 3)) continue;
    const bool covered =
        std::any_of(lasting.begin(), lasting.end(), [&link = link](const Finding& f) {
          const auto& ranks = f.culprit.ranks;
          return std::find(ranks.begin(), ranks.end(), link.first) != ranks.end() ||
                 std::find(ranks.begin(), ranks.end(), link.second) != ranks.end() ||
                 std::find(f.culprit.links.begin(), f.culprit.links.end(), link) !=
                     f.culprit.links.end();
        });
    if (covered) continue;
    std::vector<float> gaps;
    for (size_t i = 1; i < events.size(); ++i) {
      gaps.push_back(static_cast<float>(events[i].step - events[i - 1].step));
    }
    const float gap = gaps.empty() ? 0 : median(gaps);
    Finding f{.cls = Class::kLinkFlap,
              .first_step = events.front().step,
              .last_step = events.back().step,
              .hold_steps = std::max(view.options.window_steps, static_cast<uint32_t>(2.5F * gap)),
              .confidence = std::min(0.95F, 0.6F + 0.1F * static_cast<float>(events.size())),
              .period_s = gap * view.step_ns * 1e-9,
              .runner_up = Class::kSlowLink,
              .runner_up_confidence = 0.2F};
    f.cost = std::min(1.0F, sum / static_cast<float>(view.newest() - f.first_step + 1));
    f.culprit.links = {link};
    f.evidence.push_back({.rank = link.first,
                          .text = text("sending to rank %u took up to %.1f times as long for "
                                       "moments, %zu times since step %u",
                                       link.second, most, events.size(), f.first_step)});
    f.summary =
        text("the link from rank %u to rank %u is slow for moments", link.first, link.second);
    found.push_back(std::move(f));
  }
  return found;
}

std::vector<Finding> NetworkFaults::find(const View& view) {
  std::vector<Signal> links, flows;
  std::vector<float> link_values, flow_values;
  add_links(view, links, link_values);
  add_flows(view, flows, flow_values);
  // Counters tell the place; without any, operations must do.
  bool between = false, within = false;
  for (const Signal& s : links) {
    if (s.volume > 0) (s.within_host ? within : between) = true;
  }
  std::vector<Signal> used;
  std::vector<float> values;
  const size_t columns = view.steps.size();
  const auto use = [&](const std::vector<Signal>& from, const std::vector<float>& with, bool which,
                       bool counters) {
    for (size_t s = 0; s < from.size(); ++s) {
      if ((from[s].within_host ? within : between) != counters || !which) continue;
      used.push_back(from[s]);
      values.insert(values.end(), with.begin() + static_cast<ptrdiff_t>(s * columns),
                    with.begin() + static_cast<ptrdiff_t>((s + 1) * columns));
    }
  };
  use(links, link_values, true, true);
  use(flows, flow_values, true, false);
  judge(view, used, values);
  std::vector<Finding> found = localise(view, used);
  for (Finding& f : flapping(view, found)) found.push_back(std::move(f));
  return found;
}

}  // namespace convoy::trace::slow
