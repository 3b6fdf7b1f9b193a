#include "trace/analysis/wait_graph.h"

#include <algorithm>

namespace convoy::trace {
namespace {

// Positions from here on are "behind all that is pending".
constexpr size_t kAll = 127;
constexpr size_t kPlacesMax = 8;

uint64_t key_of(const Place& p) {
  uint64_t h = p.sequence;
  for (const uint64_t v : {uint64_t{p.group}, static_cast<uint64_t>(p.sender + 1),
                           static_cast<uint64_t>(p.receiver + 1)}) {
    h = (h ^ v) * 0x9e3779b97f4a7c15 + (h >> 29);
  }
  return h;
}

}  // namespace

WaitGraph::WaitGraph(const Ledger& ledger, const ClockModel& clocks, const Join& join)
    : ledger_(ledger), clocks_(clocks), join_(join) {}

Place place_of(const Registry& registry, uint32_t rank, const Operation& o) {
  const Signature& s = registry.signatures()[o.signature];
  Place p{s.group, -1, -1, o.sequence};
  if (s.is_message()) {
    const auto self = static_cast<int32_t>(rank);
    const bool sends = s.operation != "recv";
    p.sender = sends ? self : s.peer;
    p.receiver = sends ? s.peer : self;
  }
  return p;
}

Place WaitGraph::place_of(uint32_t rank, const Operation& o) const {
  return trace::place_of(ledger_.registry(), rank, o);
}

bool WaitGraph::is_overdue(const RankTrack& rank, const Operation& o) const {
  return o.issued != 0 && ledger_.age(rank, o) > ledger_.deadline(o.signature);
}

std::vector<Cause> WaitGraph::causes() {
  const auto& ranks = ledger_.ranks();
  for (uint32_t r = 0; r < ranks.size(); ++r) {
    if (!ranks[r].is_seen || ranks[r].is_dead() || ledger_.is_silent(ranks[r])) continue;
    for (const Operation& o : ranks[r].state.pending) {
      if (!is_overdue(ranks[r], o)) continue;
      roots_.emplace_back(rank_node(r, kAll), &o);
      break;
    }
  }
  while (!open_.empty()) {
    const uint32_t node = open_.back();
    open_.pop_back();
    if (nodes_[node].is_rank) {
      expand_rank(node, position_[node]);
    } else {
      expand_place(node);
    }
  }
  spread();
  while (break_soft() || break_cycle()) spread();
  count();
  std::erase_if(causes_, [](const Cause& c) { return c.waiting == 0; });
  return std::move(causes_);
}

uint32_t WaitGraph::rank_node(uint32_t rank, size_t position) {
  const size_t at = std::min(position, kAll);
  const auto [it, is_new] =
      rank_nodes_.try_emplace(uint64_t{rank} << 7 | at, static_cast<uint32_t>(nodes_.size()));
  if (is_new) {
    nodes_.emplace_back();
    nodes_.back().is_rank = true;
    nodes_.back().rank = rank;
    position_[it->second] = at;
    open_.push_back(it->second);
  }
  return it->second;
}

uint32_t WaitGraph::place_node(const Place& place) {
  std::vector<uint32_t>& there = place_nodes_[key_of(place)];
  for (const uint32_t n : there) {
    if (nodes_[n].place == place) return n;
  }
  const auto number = static_cast<uint32_t>(nodes_.size());
  there.push_back(number);
  nodes_.emplace_back();
  nodes_.back().place = place;
  open_.push_back(number);
  return number;
}

int32_t WaitGraph::add_cause(Cause::Kind kind, uint32_t rank, const Place& place) {
  Cause c;
  c.kind = kind;
  c.rank = rank;
  c.place = place;
  causes_.push_back(c);
  return static_cast<int32_t>(causes_.size() - 1);
}

// Behind `position` of what is pending: all of it holds up the host, what was called before holds
// up the GPU.
void WaitGraph::expand_rank(uint32_t node, size_t position) {
  const uint32_t r = nodes_[node].rank;
  const RankTrack& rank = ledger_.rank(r);
  const bool is_host = position == kAll;
  // One that is stopped goes on with nothing, whatever it is in.
  const bool is_stopped = rank.state.life == Life::kStopped;
  if (!rank.is_seen || rank.is_dead() || is_stopped || ledger_.is_silent(rank)) {
    nodes_[node].cause = add_cause(Cause::kHost, r, {});
    return;
  }
  const auto& pending = rank.state.pending;
  const size_t end = std::min(position, pending.size());
  const bool has_overdue =
      is_host && std::any_of(pending.begin(), pending.end(),
                             [&](const Operation& o) { return is_overdue(rank, o); });
  const auto group_of = [&](const Operation& o) {
    return ledger_.registry().signatures()[o.signature].group;
  };
  for (size_t i = 0; i < end; ++i) {
    if (has_overdue && !is_overdue(rank, pending[i])) continue;
    // Of one group they run one after the other: the first is what counts.
    const Place place = place_of(r, pending[i]);
    const bool is_behind =
        std::any_of(nodes_[node].edges.begin(), nodes_[node].edges.end(), [&](const Edge& e) {
          const Place& before = nodes_[e.to].place;
          return before.group == place.group && before.sender == place.sender &&
                 before.receiver == place.receiver;
        });
    if (is_behind) continue;
    const ShapeTrack& shape = ledger_.shape(pending[i].signature);
    const bool is_same_group =
        end < pending.size() && group_of(pending[i]) == group_of(pending[end]);
    const bool is_soft = is_host ? shape.is_async() : shape.overlaps() && !is_same_group;
    const uint32_t to = place_node(place);
    nodes_[node].edges.push_back({to, is_soft});
  }
  if (nodes_[node].edges.empty()) {
    Place here;
    if (!is_host && end < pending.size()) here = place_of(r, pending[end]);
    nodes_[node].cause = add_cause(is_host ? Cause::kHost : Cause::kGpu, r, here);
  }
}

bool WaitGraph::agree(const Place& place, const std::vector<uint32_t>& members) const {
  bool is_known = false;
  uint32_t kind = 0;
  for (const uint32_t m : members) {
    for (const Operation& o : ledger_.rank(m).state.pending) {
      if (o.sequence != place.sequence || place_of(m, o) != place) continue;
      if (is_known && join_.kind_of(o.signature) != kind) return false;
      kind = join_.kind_of(o.signature);
      is_known = true;
      break;
    }
  }
  return true;
}

void WaitGraph::expand_place(uint32_t node) {
  const Place place = nodes_[node].place;
  std::vector<uint32_t> members;
  if (place.is_message()) {
    members = {static_cast<uint32_t>(place.sender), static_cast<uint32_t>(place.receiver)};
  } else if (place.group < ledger_.registry().groups().size()) {
    members = ledger_.registry().groups()[place.group].ranks;
  }
  if (!agree(place, members)) {
    nodes_[node].cause = add_cause(Cause::kMismatch, 0, place);
    return;
  }
  std::vector<uint32_t> late, not_started;
  for (const uint32_t m : members) {
    const RankTrack& rank = ledger_.rank(m);
    const int32_t peer = !place.is_message()                        ? -1
                         : m == static_cast<uint32_t>(place.sender) ? place.receiver
                                                                    : place.sender;
    const bool sends = place.is_message() && m == static_cast<uint32_t>(place.sender);
    const Progress* p = rank.find(place.group, peer, sends);
    if (p == nullptr || p->issued < place.sequence) {
      late.push_back(m);
    } else if (p->started < place.sequence && rank.tells_starts) {
      not_started.push_back(m);
    }
  }
  if (!late.empty()) {
    for (const uint32_t m : late) {
      const uint32_t to = rank_node(m, kAll);
      nodes_[node].edges.push_back({to, false});
    }
    return;
  }
  for (const uint32_t m : not_started) {
    const auto& pending = ledger_.rank(m).state.pending;
    size_t at = 0;
    while (at < pending.size() && place_of(m, pending[at]) != place) ++at;
    const uint32_t to = rank_node(m, std::min(at, kAll - 1));
    nodes_[node].edges.push_back({to, false});
  }
  if (not_started.empty()) {
    // Since the last one has come: who came before has waited for it, not for the network.
    bool is_overdue_here = true, is_pending = false;
    bool has_died = false;  // or stopped
    for (const uint32_t m : members) {
      const RankTrack& rank = ledger_.rank(m);
      const bool is_stopped = rank.state.life == Life::kStopped;
      if (rank.is_seen && (rank.is_dead() || is_stopped || ledger_.is_silent(rank))) {
        has_died = true;
        const uint32_t to = rank_node(m, kAll);
        nodes_[node].edges.push_back({to, false});
      }
      for (const Operation& o : rank.state.pending) {
        if (o.sequence != place.sequence || place_of(m, o) != place) continue;
        const bool is_first = !place.is_message() && place.sequence == 1;
        const int64_t limit =
            std::max(ledger_.deadline(o.signature), is_first ? ledger_.first_deadline() : 0);
        is_overdue_here &= ledger_.running(rank, o) > limit;
        is_pending = true;
      }
    }
    if (has_died) return;
    const bool is_known = is_overdue_here && is_pending;
    nodes_[node].cause = add_cause(is_known ? Cause::kNetwork : Cause::kUnsure, 0, place);
  }
}

void WaitGraph::spread() {
  std::vector<std::vector<uint32_t>> from(nodes_.size());
  for (uint32_t n = 0; n < nodes_.size(); ++n) {
    for (const Edge& e : nodes_[n].edges) from[e.to].push_back(n);
  }
  std::vector<uint32_t> queue;
  for (uint32_t n = 0; n < nodes_.size(); ++n) {
    if (nodes_[n].cause >= 0) nodes_[n].reaches = nodes_[n].cause;
    if (nodes_[n].reaches >= 0) queue.push_back(n);
  }
  for (size_t i = 0; i < queue.size(); ++i) {
    for (const uint32_t n : from[queue[i]]) {
      Cause& cause = causes_[static_cast<size_t>(nodes_[queue[i]].reaches)];
      const bool is_direct = nodes_[queue[i]].cause >= 0 && !nodes_[n].is_rank;
      if (is_direct && cause.places.size() < kPlacesMax) cause.places.push_back(nodes_[n].place);
      if (nodes_[n].reaches >= 0) continue;
      nodes_[n].reaches = nodes_[queue[i]].reaches;
      queue.push_back(n);
    }
  }
}

// Without those that only wait for a circle, and are waited for by nobody in one.
std::vector<bool> WaitGraph::in_circles() const {
  std::vector<uint32_t> entering(nodes_.size(), 0), free;
  for (const Node& node : nodes_) {
    if (node.reaches >= 0) continue;
    for (const Edge& e : node.edges) ++entering[e.to];
  }
  std::vector<bool> is_in(nodes_.size());
  for (uint32_t n = 0; n < nodes_.size(); ++n) {
    is_in[n] = nodes_[n].reaches < 0;
    if (is_in[n] && entering[n] == 0) free.push_back(n);
  }
  for (size_t i = 0; i < free.size(); ++i) {
    is_in[free[i]] = false;
    for (const Edge& e : nodes_[free[i]].edges) {
      if (--entering[e.to] == 0) free.push_back(e.to);
    }
  }
  return is_in;
}

// Whoever stopped first of those that need not wait is the one that the others wait for.
bool WaitGraph::break_soft() {
  const std::vector<bool> is_in = in_circles();
  int64_t first_at = INT64_MAX;
  uint32_t first = 0;
  for (uint32_t n = 0; n < nodes_.size(); ++n) {
    const Node& node = nodes_[n];
    if (!node.is_rank || !is_in[n]) continue;
    if (!std::all_of(node.edges.begin(), node.edges.end(), [](Edge e) { return e.is_soft; })) {
      continue;
    }
    const int64_t at = clocks_.root_time(node.rank, ledger_.rank(node.rank).last_activity);
    if (at < first_at) first_at = at, first = n;
  }
  if (first_at == INT64_MAX) return false;
  Node& node = nodes_[first];
  const size_t position = position_[first];
  const auto& pending = ledger_.rank(node.rank).state.pending;
  Place here;
  if (position < kAll && position < pending.size()) here = place_of(node.rank, pending[position]);
  node.cause = add_cause(position == kAll ? Cause::kHost : Cause::kGpu, node.rank, here);
  return true;
}

bool WaitGraph::break_cycle() {
  uint32_t at = 0;
  while (at < nodes_.size() && nodes_[at].reaches >= 0) ++at;
  if (at == nodes_.size()) return false;
  // A walk finds a node of a circle, and breadth first the shortest way back to it. What a rank
  // called first is what it waits for first.
  std::vector<bool> is_met(nodes_.size(), false);
  while (!is_met[at]) {
    is_met[at] = true;
    at = nodes_[at].edges.front().to;
  }
  std::vector<uint32_t> before(nodes_.size(), UINT32_MAX), queue = {at};
  bool is_closed = false;
  for (size_t i = 0; i < queue.size() && !is_closed; ++i) {
    const Node& node = nodes_[queue[i]];
    for (size_t j = 0; j < (node.is_rank ? 1 : node.edges.size()) && !is_closed; ++j) {
      const Edge& e = node.edges[j];
      if (e.to == at) {
        before[at] = queue[i];
        is_closed = true;
        break;
      }
      if (before[e.to] != UINT32_MAX || nodes_[e.to].reaches >= 0) continue;
      before[e.to] = queue[i];
      queue.push_back(e.to);
    }
  }
  std::vector<uint32_t> circle;
  for (uint32_t n = before[at]; n != at; n = before[n]) circle.push_back(n);
  circle.push_back(at);
  std::reverse(circle.begin(), circle.end());  // from `at` on
  Cause cause;
  cause.kind = Cause::kCycle;
  for (size_t i = 0; i < circle.size(); ++i) {
    const Node& node = nodes_[circle[i]];
    if (!node.is_rank) continue;
    const Node& waits_in = nodes_[circle[(i + 1) % circle.size()]];
    cause.cycle.emplace_back(node.rank, waits_in.place);
  }
  cause.rank = cause.cycle.front().first;
  cause.place = cause.cycle.front().second;
  causes_.push_back(cause);
  for (const uint32_t n : circle) nodes_[n].cause = static_cast<int32_t>(causes_.size() - 1);
  return true;
}

void WaitGraph::count() {
  for (const auto& [n, operation] : roots_) {
    const Node& node = nodes_[n];
    if (node.reaches < 0) continue;
    Cause& cause = causes_[static_cast<size_t>(node.reaches)];
    const int64_t since = clocks_.root_time(node.rank, operation->issued);
    if (cause.waiting++ != 0 && since >= cause.since) continue;
    cause.since = since;
    cause.until = since + ledger_.deadline(operation->signature);
    cause.victim = node.rank;
    cause.victim_place = place_of(node.rank, *operation);
  }
}

}  // namespace convoy::trace
