#include "trace/analysis/slow/network_faults.h"

#include <algorithm>
#include <set>

// Where the network is slow, from which links (or groups) are slow and which are not.
namespace convoy::trace::slow {
namespace {

constexpr float kMostly = 0.7F;
constexpr float kCostMin = 0.01F;     // of the step time; less is hidden
constexpr float kRatioAlways = 1.5F;  // told even so
constexpr float kLossy = 20;          // retransmits a second: packets are lost, not only slow
constexpr float kTrickle = 0.03F;     // of a rank's busiest link: the rest says little

// Hosts on either side of something: those that slow links connect are on different sides.
class Sides {
 public:
  explicit Sides(size_t hosts) : parent_(hosts), flip_(hosts, 0) {
    for (size_t h = 0; h < hosts; ++h) parent_[h] = static_cast<uint32_t>(h);
  }
  // False: contradicts what was said before.
  bool relate(uint32_t a, uint32_t b, int other_side) {
    const auto [ra, fa] = find(a);
    const auto [rb, fb] = find(b);
    if (ra == rb) return (fa ^ fb) == other_side;
    parent_[ra] = rb;
    flip_[ra] = static_cast<uint8_t>(fa ^ fb ^ other_side);
    return true;
  }
  std::pair<uint32_t, int> find(uint32_t h) const {
    int flip = 0;
    for (; parent_[h] != h; h = parent_[h]) flip ^= flip_[h];
    return {h, flip};
  }

 private:
  std::vector<uint32_t> parent_;
  std::vector<uint8_t> flip_;
};

Finding finding_of(const View& view, Class cls, const Change& change, float cost) {
  Finding f{.cls = cls,
            .first_step = view.steps[change.begin],
            .last_step = view.newest(),
            .cost = std::clamp(cost, 0.0F, 1.0F),
            .confidence = std::min(0.97F, 0.6F + 0.02F * change.significance)};
  return f;
}

}  // namespace

// Fabric: nearly all links between two sets of hosts are slow, and nearly none within either.
bool NetworkFaults::fabric(const View& view, const std::vector<const Signal*>& hot,
                           const std::vector<Signal>& all, std::vector<Finding>& found) const {
  std::set<uint32_t> ranks;
  for (const Signal* s : hot) ranks.insert(s->sender), ranks.insert(s->receiver);
  if (hot.size() < 4 || ranks.size() < 6) return false;
  const size_t hosts = view.clock.hosts().size();
  if (hosts < 2) return false;
  Sides sides(hosts);
  size_t right = 0, wrong = 0;
  const auto relate = [&](const Signal& s, int other) {
    const uint32_t a = view.clock.host_of(s.sender), b = view.clock.host_of(s.receiver);
    if (a == ClockModel::kNone || b == ClockModel::kNone || a == b) return;
    ++(sides.relate(a, b, other) ? right : wrong);
  };
  for (const Signal* s : hot) relate(*s, 1);
  for (const Signal& s : all) {
    if (s.is_link && !s.within_host && s.base > 0 && !s.change.found) relate(s, 0);
  }
  if (wrong * 10 > right + wrong) return false;
  const auto [root, flip] = sides.find(view.clock.host_of(hot.front()->sender));
  std::vector<std::string> here, there;
  for (uint32_t h = 0; h < hosts; ++h) {
    const auto [r, f] = sides.find(h);
    if (r == root) (f == flip ? here : there).push_back(view.clock.hosts()[h]);
  }
  const Signal* worst = *std::max_element(
      hot.begin(), hot.end(), [](const Signal* a, const Signal* b) { return a->cost < b->cost; });
  Finding f = finding_of(view, Class::kSlowFabric, worst->change, worst->cost);
  f.culprit.hosts = here.size() <= there.size() ? here : there;
  f.runner_up = Class::kSlowNic;
  f.runner_up_confidence = 0.15F;
  f.evidence.push_back({.rank = worst->sender,
                        .text = text("%zu links between %zu and %zu hosts take up to %.2f times as "
                                     "long for a byte, those within either side do not",
                                     hot.size(), here.size(), there.size(), worst->ratio)});
  f.summary = text("the network between %zu hosts (%s …) and the others is slow",
                   f.culprit.hosts.size(), f.culprit.hosts.front().c_str());
  found.push_back(std::move(f));
  return true;
}

std::vector<Finding> NetworkFaults::within_hosts(const View& view,
                                                 const std::vector<const Signal*>& hot) const {
  std::map<uint32_t, std::vector<const Signal*>> of_host;
  for (const Signal* s : hot) {
    const uint32_t rank = s->is_link ? s->sender : view.registry.groups()[s->group].ranks.front();
    of_host[view.clock.host_of(rank)].push_back(s);
  }
  std::vector<Finding> found;
  for (const auto& [host, signals] : of_host) {
    const Signal* worst =
        *std::max_element(signals.begin(), signals.end(),
                          [](const Signal* a, const Signal* b) { return a->cost < b->cost; });
    Finding f = finding_of(view, Class::kSlowIntranode, worst->change, worst->cost);
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

// Without a link's own measurements: the rank that all slow groups share and no fast one has.
std::vector<Finding> NetworkFaults::groups_only(const View& view,
                                                const std::vector<const Signal*>& hot,
                                                const std::vector<Signal>& all) const {
  std::map<uint32_t, std::pair<size_t, size_t>> of_rank;  // slow groups, all
  const auto members = [&](const Signal& s) {
    return s.is_link ? std::vector<uint32_t>{s.sender, s.receiver}
                     : view.registry.groups()[s.group].ranks;
  };
  for (const Signal& s : all) {
    if (s.within_host || s.base <= 0) continue;
    for (const uint32_t r : members(s)) {
      ++of_rank[r].second;
      of_rank[r].first += s.change.found;
    }
  }
  std::vector<uint32_t> best;
  for (const auto& [rank, counts] : of_rank) {
    const auto [slow, total] = counts;
    if (slow == hot.size() && slow >= 2 &&
        static_cast<float>(slow) > kMostly * static_cast<float>(total)) {
      best.push_back(rank);
    }
  }
  const Signal* worst = *std::max_element(
      hot.begin(), hot.end(), [](const Signal* a, const Signal* b) { return a->cost < b->cost; });
  if (best.size() == 1) {
    Finding f = finding_of(view, Class::kSlowNic, worst->change, worst->cost);
    f.culprit.ranks = best;
    f.runner_up = Class::kSlowTx;
    f.runner_up_confidence = 0.25F;
    f.confidence *= 0.9F;
    f.evidence.push_back({.rank = best[0],
                          .group = worst->group,
                          .text = text("the %zu groups and pairs that take up to %.2f times as "
                                       "long have only this rank in common",
                                       hot.size(), worst->ratio)});
    f.summary = view.roles.describe(best[0]) + "'s network is slow";
    return {f};
  }
  if (worst->cost < static_cast<float>(view.options.slow_share)) return {};
  Finding f = finding_of(view, Class::kUnknown, worst->change, worst->cost);
  for (const Signal* s : hot) {
    if (!s->is_link && f.culprit.groups.size() < 8 &&
        std::find(f.culprit.groups.begin(), f.culprit.groups.end(), s->group) ==
            f.culprit.groups.end()) {
      f.culprit.groups.push_back(s->group);
    }
  }
  f.runner_up = Class::kSlowFabric;
  f.runner_up_confidence = 0.4F;
  f.confidence = 0.5F;
  f.evidence.push_back(
      {.group = worst->group,
       .text = text("operations take %.2f times as long once all ranks have come", worst->ratio)});
  f.summary = "the network is slower than before, and nothing tells where";
  return {f};
}

std::vector<Finding> NetworkFaults::localise(const View& view,
                                             const std::vector<Signal>& all) const {
  std::vector<const Signal*> between, within, groups;
  std::vector<Signal> signals;
  std::map<uint32_t, std::pair<float, float>> busiest;  // link out of, into a rank
  for (const Signal& s : all) {
    if (!s.is_link) continue;
    busiest[s.sender].first = std::max(busiest[s.sender].first, s.volume);
    busiest[s.receiver].second = std::max(busiest[s.receiver].second, s.volume);
  }
  for (const Signal& s : all) {
    if (s.is_link &&
        s.volume < kTrickle * std::min(busiest[s.sender].first, busiest[s.receiver].second))
      continue;
    signals.push_back(s);
  }
  const bool one_host = view.clock.hosts().size() <= 1;
  for (const Signal& s : signals) {
    if (!s.change.found || (s.cost < kCostMin && s.ratio < kRatioAlways)) continue;
    // Several ranks of one machine over TCP: a network all the same.
    const bool is_within = s.within_host && !(one_host && s.has_round_trip);
    (is_within ? within : s.is_link ? between : groups).push_back(&s);
  }
  std::vector<Finding> found = within_hosts(view, within);
  if (between.empty() && !groups.empty()) {
    for (Finding& f : groups_only(view, groups, signals)) found.push_back(std::move(f));
  }
  if (between.empty() || fabric(view, between, signals, found)) return found;

  std::map<uint32_t, Ends> ends;
  for (const Signal& s : signals) {
    if (!s.is_link || s.base <= 0 || (s.within_host && !(one_host && s.has_round_trip))) continue;
    ++ends[s.sender].out, ++ends[s.receiver].in;
  }
  for (const Signal* s : between) ++ends[s->sender].out_hot, ++ends[s->receiver].in_hot;
  const auto share = [](size_t hot, size_t all) {
    return all == 0 ? 0 : static_cast<float>(hot) / static_cast<float>(all);
  };
  // The rank that explains most slow links comes first, and takes them along.
  while (!between.empty()) {
    std::map<uint32_t, Ends> left;
    for (const Signal* s : between) ++left[s->sender].out_hot, ++left[s->receiver].in_hot;
    uint32_t culprit = Roles::kNone;
    Class cls = Class::kSlowLink;
    size_t most = 1;
    for (const auto& [rank, e] : left) {
      const Ends& total = ends[rank];
      const bool out = share(e.out_hot, total.out) > kMostly;
      const bool in = share(e.in_hot, total.in) > kMostly;
      const size_t explained = (out ? e.out_hot : 0) + (in ? e.in_hot : 0);
      if (explained <= most) continue;
      most = explained;
      culprit = rank;
      cls = out && in ? Class::kSlowNic : out ? Class::kSlowTx : Class::kSlowRx;
    }
    const auto is_explained = [&](const Signal* s) {
      if (culprit == Roles::kNone) return s == between.front();
      return (cls != Class::kSlowRx && s->sender == culprit) ||
             (cls != Class::kSlowTx && s->receiver == culprit);
    };
    std::sort(between.begin(), between.end(),
              [](const Signal* a, const Signal* b) { return a->cost > b->cost; });
    const auto worst = std::find_if(between.begin(), between.end(), is_explained);
    Finding f = finding_of(view, cls, (*worst)->change, (*worst)->cost);
    const uint32_t from = (*worst)->sender, to = (*worst)->receiver;
    f.runner_up = cls == Class::kSlowLink ? Class::kSlowTx : Class::kSlowLink;
    f.runner_up_confidence = cls == Class::kSlowLink && ends[from].out == 1 ? 0.4F : 0.15F;
    const float seconds = static_cast<float>(view.steps.size()) * view.step_ns * 1e-9F;
    if (culprit == Roles::kNone && ends[from].out == 1 &&
        (*worst)->retransmits > kLossy * seconds) {
      // The only link of a sender that loses packets: its NIC rather than the path.
      f.cls = Class::kSlowTx;
      f.runner_up = Class::kSlowLink;
      f.culprit.ranks = {from};
      f.summary = view.roles.describe(from) + " loses much of what it sends";
    } else if (culprit == Roles::kNone) {
      f.culprit.links = {{from, to}};
      f.summary = text("the link from rank %u to rank %u is slow", from, to);
    } else {
      f.culprit.ranks = {culprit};
      const char* what = cls == Class::kSlowTx   ? " sends slowly to all"
                         : cls == Class::kSlowRx ? " receives slowly from all"
                                                 : "'s network is slow in both directions";
      f.summary = view.roles.describe(culprit) + what;
    }
    for (const Signal* s : between) {
      if (!is_explained(s) || f.evidence.size() >= 6) continue;
      f.evidence.push_back(
          {.rank = s->sender,
           .group = s->group,
           .text = text("to rank %u: %.2f times as long for a byte as before%s", s->receiver,
                        s->ratio, s->retransmits > 0 ? ", with retransmits" : "")});
    }
    const Signal* first = *worst;
    std::erase_if(between, [&](const Signal* s) {
      return culprit == Roles::kNone ? s == first : is_explained(s);
    });
    found.push_back(std::move(f));
  }
  return found;
}

}  // namespace convoy::trace::slow
