// Sums over what operations did on each link. Rings use the link to the next rank and from the
// previous one; an exchange of all with all uses all links evenly.
#include "src/sim/links.h"

#include <algorithm>
#include <cmath>
#include <span>

namespace convoy::sim {
namespace {

constexpr double kChunk = 512 << 10;  // bytes on their way at once …
constexpr uint32_t kChunks = 8;       // … so many of them
constexpr double kCutShare = 0.4;     // of a transfer that breaks

}  // namespace

Links::Links(const Cluster& cluster, const Layout& layout, const Fabric& fabric,
             const Faults& faults, const CounterIds& ids)
    : layout_(layout), fabric_(fabric), faults_(faults), ids_(ids), processes_(layout.ranks) {
  for (uint32_t rank = 0; rank < layout.ranks; ++rank) {
    processes_[rank].random = Random(mix(cluster.seed, 4'000'000'007ULL + rank));
    add_peers(rank);
  }
}

uint8_t Links::link(Process& process, uint32_t peer) {
  const auto known = std::ranges::find(process.links, peer, &Link::peer);
  if (known != process.links.end()) {
    return static_cast<uint8_t>(known - process.links.begin());
  }
  if (process.links.size() >= kNoLink) return kNoLink;
  process.links.push_back({.peer = peer});
  return static_cast<uint8_t>(process.links.size() - 1);
}

void Links::add_peers(uint32_t rank) {
  Process& process = processes_[rank];
  process.out.fill(kNoLink);
  process.in.fill(kNoLink);
  if (layout_.has(kEp)) {
    // First, so that they are the first links.
    for (const uint32_t peer : layout_.groups[layout_.group_of[kEp][rank]].ranks) {
      if (peer != rank) link(process, peer);
    }
    process.all = {0, static_cast<uint8_t>(process.links.size())};
  }
  for (const Slot slot : {kTp, kCp, kData}) {
    if (!layout_.has(slot)) continue;
    const Group& group = layout_.groups[layout_.group_of[slot][rank]];
    const uint32_t at = layout_.position[slot][rank], n = group.size();
    process.out[slot] = link(process, group.ranks[(at + 1) % n]);
    process.in[slot] = link(process, group.ranks[(at + n - 1) % n]);
  }
  if (layout_.stages == 1) return;
  for (uint8_t c = 0; c < 2; ++c) {
    const uint8_t to = link(process, c == 0 ? layout_.next[rank] : layout_.previous[rank]);
    process.out[kSendLane + c] = process.in[kReceiveLane + c] = to;
  }
}

void Links::add(uint32_t rank, const Done& done) {
  Process& p = processes_[rank];
  if (done.lane == kEp) {
    const double n = p.all[1];
    const auto is_slow = [&](const Link& l) {
      return done.fault != kNone && fabric_.affects(done.fault, rank, l.peer);
    };
    const auto all = std::span(p.links).subspan(p.all[0], p.all[1]);
    const auto slow = static_cast<double>(std::ranges::count_if(all, is_slow));
    const double more = slow == 0 ? 0 : (done.send - done.usual) / slow;
    const double usual = slow == 0 ? done.send / n : done.usual / n;
    for (uint8_t i = p.all[0]; i < p.all[1]; ++i) {
      Link& l = p.links[i];
      l.out = l.in = true;
      l.sent += done.moved / n;
      l.received += done.moved / n;
      l.send += is_slow(l) ? usual + more : usual;
      l.peer_wait += done.peer / n;
      l.receive += done.receive / n;
      l.source += done.source / n;
    }
    return;
  }
  if (const uint8_t at = p.out[done.lane]; at != kNoLink) {
    Link& l = p.links[at];
    l.out = true;
    l.sent += done.moved;
    l.send += done.send;
    l.peer_wait += done.peer;
    l.source += done.source;
  }
  if (const uint8_t at = p.in[done.lane]; at != kNoLink) {
    Link& l = p.links[at];
    l.in = true;
    l.received += done.moved;
    l.receive += done.receive;
  }
}

// What got through before the network broke: nothing has come behind the gap for the longest time,
// and the one before it has posted all that he may.
void Links::add_cut(uint32_t rank, const Group& group, uint32_t position) {
  Process& p = processes_[rank];
  for (const ActiveFault& f : faults_.all()) {
    if (f.fault.cls != trace::Class::kNetHang || f.onset == kNever) continue;
    const auto at = std::ranges::find(group.ranks, static_cast<uint32_t>(f.fault.peer));
    if (at == group.ranks.end()) continue;
    const auto first = static_cast<uint32_t>(at - group.ranks.begin());
    const uint32_t distance = (position + group.size() - first) % group.size();
    const double received = kCutShare * 64 * kChunk + std::min(distance, kChunks) * kChunk;
    const double sent = received + kChunk * (distance + 1 == group.size() ? kChunks : 1);
    if (p.in[group.slot] != kNoLink) p.links[p.in[group.slot]].received += received;
    if (p.out[group.slot] != kNoLink) p.links[p.out[group.slot]].sent += sent;
  }
  p.cut = true;
}

void Links::add_stuck(uint32_t rank, const Engine& engine, Time now, Time span) {
  Process& p = processes_[rank];
  const auto wait = static_cast<double>(span);
  for (const Open& open : engine.ranks()[rank].open) {
    const Time started = engine.started(open);
    const uint8_t in = p.in[open.lane], out = p.out[open.lane];
    if (open.lane >= kSlots) {
      if (out != kNoLink) p.links[out].peer_wait += wait, p.links[out].out = true;
      if (in != kNoLink) p.links[in].receive += wait, p.links[in].in = true;
      continue;
    }
    if (in == kNoLink || out == kNoLink || open.issued > now) continue;
    p.links[out].out = p.links[in].in = true;
    if (started == kNever) {
      if (open.ready == kNever) p.links[out].source += wait;
      continue;
    }
    const Group& group = layout_.groups[open.group];
    const uint32_t at = layout_.position[group.slot][rank];
    const auto come = [&](uint32_t position) {
      return engine.has_come(group.ranks[position % group.size()], open.lane, open.sequence);
    };
    bool wire = false, room = come(at + 1);
    for (const ActiveFault& f : faults_.all()) {
      if (f.fault.cls != trace::Class::kNetHang || f.onset == kNever) continue;
      if (!p.cut) add_cut(rank, group, at);
      wire = rank == static_cast<uint32_t>(f.fault.rank);
      if (group.ranks[(at + 1) % group.size()] == static_cast<uint32_t>(f.fault.rank)) room = false;
    }
    if (wire) {
      p.links[out].send += wait;
    } else if (!room) {
      p.links[out].peer_wait += wait;
    } else {
      p.links[in].receive += wait;
    }
  }
}

void Links::tell_link(uint32_t rank, Process& process, Link& l, Time now, Time span,
                      std::vector<trace::CounterEvent>& to) {
  const auto peer = static_cast<int32_t>(l.peer);
  if (l.out) {
    put(to, kCountSent, peer, l.sent);
    put(to, kCountSendWait, peer, l.send);
    put(to, kCountPeerWait, peer, l.peer_wait);
    put(to, kCountSourceWait, peer, l.source);
  }
  if (l.in) {
    put(to, kCountReceived, peer, l.received);
    put(to, kCountReceiveWait, peer, l.receive);
  }
  if (!fabric_.same_host(rank, l.peer) && (l.out || l.in)) {
    const LinkHealth health = fabric_.health(rank, l.peer, now);
    const double expected = l.out ? health.retransmits_per_s * static_cast<double>(span) * 1e-9 : 0;
    l.retransmits += std::floor(process.random.exponential(expected) + process.random.uniform());
    if (const auto count = static_cast<uint64_t>(l.retransmits); count != l.told_retransmits) {
      put(to, kCountRetransmits, peer, l.retransmits);
      l.told_retransmits = count;
    }
    put(to, kCountRoundTrip, peer, health.round_trip_ns * (1 + process.random.exponential(0.08)));
  }
  l.out = l.in = false;
}

void Links::tell(uint32_t rank, const Rank& state, Time now, Time span,
                 std::vector<trace::CounterEvent>& to) {
  Process& p = processes_[rank];
  for (Link& l : p.links) tell_link(rank, p, l, now, span, to);
  double waiting = 0.004 * (1 + p.random.exponential(0.5));
  for (const ActiveFault& f : faults_.all()) {
    if (f.fault.cls == trace::Class::kHostLaunchBound &&
        rank == static_cast<uint32_t>(f.fault.rank) && now >= f.onset && now < f.over) {
      waiting += 0.45 * (1 + 0.2 * p.random.uniform(-1, 1));
    }
  }
  const auto passed = static_cast<double>(span);
  p.run_queue += waiting * passed;
  p.processor += passed * (state.halted ? 0.01 : 0.9) * p.random.uniform(0.97, 1.0);
  if (p.random.chance(0.02)) ++p.page_faults;
  put(to, kCountRunQueue, -1, p.run_queue);
  put(to, kCountProcessor, -1, p.processor);
  put(to, kCountPageFaults, -1, static_cast<double>(p.page_faults));
  put(to, kCountDiskWait, -1, p.disk_wait);
  put(to, kCountTokens, -1, static_cast<double>(state.tokens));
}

}  // namespace convoy::sim
