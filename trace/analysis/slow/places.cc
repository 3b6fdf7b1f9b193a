#include "trace/analysis/slow/places.h"

#include "trace/analysis/slow/robust.h"

#include <algorithm>
#include <cmath>
#include <set>

namespace convoy::trace::slow {
namespace {

constexpr double kEnough = 30;       // χ² of one measure: beyond it, more says no more
constexpr float kEcho = 0.35F;       // of the highest level: what most links may be raised by …
constexpr float kEchoError = 0.05F;  // … and how much the one more than the other
constexpr double kMostLinks = 0.75;
constexpr size_t kLinksMin = 8;   // so many tell what all are raised by
constexpr float kWeakest = 0.5F;  // of the highest: how much a place raises its other measures
constexpr double kLost = 5;       // for each measure where packets are lost
constexpr float kScoreMin = 3;
constexpr float kSure = 1;        // scores that differ by less are equal
constexpr size_t kPairsMax = 16;  // of groups whose operations use all links
constexpr size_t kPlacesMax = 4;

uint64_t edge(uint32_t sender, uint32_t receiver) {
  return uint64_t{sender} << 32 | receiver;
}

std::vector<uint32_t> joined(const std::vector<uint32_t>& a, const std::vector<uint32_t>& b) {
  std::vector<uint32_t> both = a;
  both.insert(both.end(), b.begin(), b.end());
  std::sort(both.begin(), both.end());
  both.erase(std::unique(both.begin(), both.end()), both.end());
  return both;
}

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

template <typename Map>
const std::vector<uint32_t>& at(const Map& map, typename Map::key_type key) {
  static const std::vector<uint32_t> none;
  const auto found = map.find(key);
  return found == map.end() ? none : found->second;
}

// While all wait for something slow, windows shrink and caches cool: all links are a little slower
// then, and that says nothing of the place. Where most are as slow as the slowest, it does.
void take_echo(std::vector<Measure>& measures) {
  std::vector<float> levels;
  float most = 0;
  for (const Measure& m : measures) {
    if (m.is_link) levels.push_back(m.level);
    if (m.is_raised) most = std::max(most, m.level);
  }
  const float common = quantile(levels, kMostLinks);
  if (levels.size() < kLinksMin || common <= 0 || common > kEcho * most) return;
  for (Measure& m : measures) m.level -= m.is_link ? common : 0;
}

}  // namespace

Places::Places(std::vector<Measure> measures, std::function<bool(uint32_t, uint32_t)> crosses,
               std::function<uint32_t(uint32_t)> host_of)
    : measures_(std::move(measures)),
      crosses_(std::move(crosses)),
      host_of_(std::move(host_of)),
      done_(measures_.size(), false) {
  take_echo(measures_);
  for (uint32_t m = 0; m < measures_.size(); ++m) add_edges(m);
  order_hosts();
}

void Places::add_edges(uint32_t m) {
  const auto add = [&](std::vector<uint32_t>& to) {
    if (to.empty() || to.back() != m) to.push_back(m);
  };
  const std::vector<uint32_t>& ranks = measures_[m].ranks;
  const auto add_edge = [&](uint32_t sender, uint32_t receiver) {
    if (!crosses_(sender, receiver)) return;
    add(out_[sender]), add(in_[receiver]), add(edges_[edge(sender, receiver)]);
  };
  if (measures_[m].is_link) return add_edge(ranks[0], ranks[1]);
  if (!measures_[m].all_pairs || ranks.size() > kPairsMax) {
    for (size_t i = 0; i < ranks.size(); ++i) add_edge(ranks[i], ranks[(i + 1) % ranks.size()]);
    return;
  }
  for (const uint32_t a : ranks) {
    for (const uint32_t b : ranks) {
      if (a != b) add_edge(a, b);
    }
  }
}

void Places::order_hosts() {
  std::map<uint32_t, uint32_t> first;  // of each host: its lowest rank
  for (const auto* ends : {&out_, &in_}) {
    for (const auto& [rank, ids] : *ends) {
      const auto [known, is_new] = first.emplace(host_of_(rank), rank);
      if (!is_new) known->second = std::min(known->second, rank);
    }
  }
  for (const auto& [host, rank] : first) hosts_.push_back(host);
  std::sort(hosts_.begin(), hosts_.end(),
            [&](uint32_t a, uint32_t b) { return first.at(a) < first.at(b); });
  for (uint32_t i = 0; i < hosts_.size(); ++i) host_at_[hosts_[i]] = i;
}

// By how much likelier a measure is where the fault raises it, as a logarithm.
double Places::gain(const Measure& m, float level) const {
  const double variance =
      m.error * m.error + kEchoError * kEchoError * std::max(1.0F, level * level);
  const double x = std::max(0.0F, m.level);
  const double lacking = std::max(0.0, kWeakest * level - x);
  const double gain =
      (std::min(kEnough, x * x / variance) - std::min(kEnough, lacking * lacking / variance)) / 2;
  return m.is_minor ? std::max(0.0, gain) : gain;
}

// What packets that are lost say: a cable or a port at one end, rather than too much traffic.
double Places::lost(const Place& place) const {
  double sum = 0;
  for (const uint32_t m : place.explained) {
    if (measures_[m].is_lossy) sum += kLost;
  }
  return place.cls == Class::kSlowTx || place.cls == Class::kSlowRx ? sum : 0;
}

void Places::weigh(Place& place, double price) const {
  std::erase_if(place.explained, [&](uint32_t m) { return done_[m]; });
  float level = 0;
  for (const uint32_t m : place.explained) {
    if (measures_[m].is_raised) level = std::max(level, measures_[m].level);
  }
  double sum = lost(place) - price;
  size_t raised = 0, major = 0;
  for (const uint32_t m : place.explained) {
    sum += gain(measures_[m], level);
    raised += measures_[m].is_raised && 2 * measures_[m].level > level;
    major += !measures_[m].is_minor;
  }
  // A part of the network is slow when most of it is seen to be.
  if (place.cls == Class::kSlowFabric && 3 * raised < 2 * major) level = 0;
  place.score = level > 0 ? static_cast<float>(sum) : -1;
}

// Of places that one and the same link is all of: a link where nothing is lost, else its sender.
double Places::single_price(const Place& p) const {
  const auto is_major = [&](uint32_t m) { return !measures_[m].is_minor; };
  const auto only = std::find_if(p.explained.begin(), p.explained.end(), is_major);
  if (std::count_if(p.explained.begin(), p.explained.end(), is_major) != 1) return 0;
  if (!measures_[*only].is_link) return 0;
  return p.cls == Class::kSlowLink ? 0 : p.cls == Class::kSlowTx ? 2.5 : 4;
}

void Places::add_ends(uint32_t sender, uint32_t receiver, std::map<uint64_t, Place>& to) const {
  const double links = std::log(static_cast<double>(edges_.size()));
  const double ranks = std::log(static_cast<double>(std::max(out_.size(), in_.size())));
  const auto add = [&](Class cls, uint32_t rank, uint32_t peer, const Ids& explained,
                       double price) {
    const uint64_t key = uint64_t{static_cast<uint8_t>(cls)} << 56 ^ edge(rank, peer);
    if (to.contains(key)) return;
    Place p{.cls = cls, .rank = rank, .peer = peer, .hosts = {}, .explained = explained};
    std::erase_if(p.explained, [&](uint32_t m) { return done_[m]; });
    price += single_price(p);
    weigh(p, price);
    to.emplace(key, std::move(p));
  };
  add(Class::kSlowLink, sender, receiver, at(edges_, edge(sender, receiver)), links);
  add(Class::kSlowTx, sender, 0, at(out_, sender), ranks + 0.5);
  add(Class::kSlowRx, receiver, 0, at(in_, receiver), ranks + 0.7);
  for (const uint32_t r : {sender, receiver}) {
    // Both directions must be there to be slow, or one can't be told from the other.
    const bool both = !at(out_, r).empty() && !at(in_, r).empty();
    add(Class::kSlowNic, r, 0, joined(at(out_, r), at(in_, r)), ranks + (both ? 0 : 1.5));
  }
}

// Hosts in a row, 2, 4, 8 … of them, as they hang on one switch; and all of them.
void Places::add_borders(std::vector<Place>& to) const {
  const size_t hosts = hosts_.size();
  if (hosts < 3) return;
  const double price = std::log(2.0 * static_cast<double>(hosts)) + 0.5;
  for (size_t size = 2; size < hosts; size *= 2) {
    std::map<uint32_t, std::set<uint32_t>> crossing;  // by block: measures
    for (const auto& [key, ids] : edges_) {
      const auto a = host_at_.at(host_of_(static_cast<uint32_t>(key >> 32)));
      const auto b = host_at_.at(host_of_(static_cast<uint32_t>(key)));
      if (a / size == b / size) continue;
      for (const auto block : {a / size, b / size}) {
        crossing[static_cast<uint32_t>(block)].insert(ids.begin(), ids.end());
      }
    }
    for (const auto& [block, ids] : crossing) {
      Place p{.cls = Class::kSlowFabric, .hosts = {}, .explained = {ids.begin(), ids.end()}};
      const size_t begin = block * size, end = std::min(hosts, begin + size);
      if (begin > 0 && 2 * size >= hosts) continue;  // the first block's border
      // Of a row that is longer than half of all, the rest is the side.
      for (size_t i = 0; i < hosts; ++i) {
        if ((i >= begin && i < end) == (2 * (end - begin) <= hosts)) p.hosts.push_back(hosts_[i]);
      }
      if (p.explained.size() < 2 || p.hosts.size() < 2) continue;
      weigh(p, price);
      to.push_back(std::move(p));
    }
  }
  Place all{.cls = Class::kSlowFabric, .hosts = hosts_, .explained = {}};
  for (uint32_t m = 0; m < measures_.size(); ++m) all.explained.push_back(m);
  if (measures_.size() >= 4) {
    weigh(all, price);
    to.push_back(std::move(all));
  }
}

// Any two sets of hosts, if the raised links lead from one to the other and all others don't.
void Places::add_two_sides(std::vector<Place>& to) const {
  Sides sides(hosts_.size());
  size_t right = 0, wrong = 0, raised = 0;
  Place p{.cls = Class::kSlowFabric, .hosts = {}, .explained = {}};
  uint32_t first = 0;
  for (const bool is_raised : {true, false}) {
    for (uint32_t m = 0; m < measures_.size(); ++m) {
      const Measure& measure = measures_[m];
      if (!measure.is_link || done_[m] || measure.is_raised != is_raised) continue;
      const auto a = host_at_.at(host_of_(measure.ranks[0]));
      const auto b = host_at_.at(host_of_(measure.ranks[1]));
      if (a == b) continue;
      if (is_raised) first = a, ++raised;
      ++(sides.relate(a, b, is_raised ? 1 : 0) ? right : wrong);
    }
  }
  if (raised < 4 || wrong * 10 > right + wrong) return;
  std::vector<uint32_t> here, there;
  const auto [root, flip] = sides.find(first);
  for (uint32_t i = 0; i < hosts_.size(); ++i) {
    const auto [r, f] = sides.find(i);
    if (r == root) (f == flip ? here : there).push_back(hosts_[i]);
  }
  p.hosts = std::pair(here.size(), here) <= std::pair(there.size(), there) ? here : there;
  if (p.hosts.size() < 2) return;
  const std::set<uint32_t> side(p.hosts.begin(), p.hosts.end());
  for (uint32_t m = 0; m < measures_.size(); ++m) {
    if (!measures_[m].is_link) continue;
    const bool a = side.contains(host_of_(measures_[m].ranks[0]));
    const bool b = side.contains(host_of_(measures_[m].ranks[1]));
    if (a != b) p.explained.push_back(m);
  }
  // The sides were made to fit: each host has been asked.
  weigh(p, static_cast<double>(hosts_.size()) * std::log(2.0) + 2);
  to.push_back(std::move(p));
}

std::vector<Place> Places::candidates() const {
  std::map<uint64_t, Place> ends;
  size_t raised = 0;
  for (uint32_t m = 0; m < measures_.size(); ++m) {
    const Measure& measure = measures_[m];
    if (!measure.is_raised || done_[m]) continue;
    ++raised;
    const std::vector<uint32_t>& ranks = measure.ranks;
    if (measure.is_link) {
      add_ends(ranks[0], ranks[1], ends);
      continue;
    }
    for (size_t i = 0; i < ranks.size(); ++i) {
      const uint32_t next = ranks[(i + 1) % ranks.size()];
      if (crosses_(ranks[i], next)) add_ends(ranks[i], next, ends);
    }
  }
  std::vector<Place> all;
  for (auto& [key, place] : ends) all.push_back(std::move(place));
  if (raised >= 2 && hosts_.size() >= 2) {
    add_borders(all);
    add_two_sides(all);
  }
  return all;
}

std::vector<Place> Places::find() {
  std::vector<Place> found;
  while (found.size() < kPlacesMax) {
    std::vector<Place> all = candidates();
    if (all.empty()) break;
    const auto best = std::max_element(
        all.begin(), all.end(), [](const Place& a, const Place& b) { return a.score < b.score; });
    if (best->score < kScoreMin) break;
    Place place = *best;
    for (const Place& other : all) {
      if (&other == &*best) continue;
      if (other.cls != place.cls && other.score > place.runner_up_score) {
        place.runner_up = other.cls;
        place.runner_up_score = other.score;
      }
      place.is_ambiguous |=
          other.cls == place.cls && other.score > place.score - kSure && other.hosts != place.hosts;
      place.is_ambiguous |= other.cls == place.cls && other.score > place.score - kSure &&
                            place.hosts.empty() &&
                            (other.rank != place.rank || other.peer != place.peer);
    }
    for (const uint32_t m : place.explained) done_[m] = true;
    found.push_back(std::move(place));
  }
  return found;
}

}  // namespace convoy::trace::slow
