// Fills in what a fault leaves open: its sizes by the table below, its target from the seed, and
// from both whom a diagnosis should blame.
#include "src/sim/faults.h"

#include <algorithm>
#include <functional>
#include <optional>

namespace convoy::sim {
namespace {

using trace::Class;

void fill_sizes(Fault& f) {
  const auto set = [](double& field, double value) {
    if (field == 0) field = value;
  };
  if (f.from == 0) f.from = f.cls == Class::kWarmUp || f.cls == Class::kNotJoined ? 1 : 10;
  switch (f.cls) {
    case Class::kSlowCompute:
      set(f.factor, 1.2);
      break;
    case Class::kSlowComputePeriodic:
      set(f.factor, 1.5);
      set(f.on_s, 6);
      set(f.off_s, 18);
      break;
    case Class::kSlowHost:
      set(f.factor, 1.15);
      break;
    case Class::kSlowNic:
    case Class::kSlowTx:
    case Class::kSlowRx:
    case Class::kSlowLink:
    case Class::kSlowFabric:
      set(f.factor, 4);
      break;
    case Class::kSlowIntranode:
      set(f.factor, 6);
      break;
    case Class::kLinkFlap:
      set(f.seconds, 0.2);
      set(f.off_s, 6);
      break;
    case Class::kDataLoaderStall:
    case Class::kStorageStall:
      set(f.seconds, 0.4);
      if (f.every == 0) f.every = 4;
      break;
    case Class::kHostPause:
      set(f.seconds, 0.3);
      if (f.every == 0) f.every = 20;
      break;
    case Class::kHostLaunchBound:
      set(f.factor, 4);
      break;
    case Class::kCheckpointStall:
      set(f.seconds, 2);
      if (f.rank < 0) f.rank = 0;
      break;
    case Class::kWarmUp:
      set(f.factor, 4);
      if (f.until == 0) f.until = f.from + 4;
      break;
    case Class::kImbalanceStage:
      set(f.factor, 1.25);
      break;
    case Class::kImbalanceExpert:
      set(f.factor, 2.5);
      if (f.every == 0) f.every = 6;
      break;
    case Class::kImbalanceData:
      set(f.factor, 1.6);
      break;
    case Class::kClockStep:
      set(f.seconds, 0.05);
      break;
    default:
      break;
  }
}

// The first rank from a random one on for which `fits` has an answer.
std::optional<uint32_t> search(uint64_t seed, uint32_t count,
                               const std::function<bool(uint32_t)>& fits) {
  for (uint32_t i = 0; i < count; ++i) {
    const auto rank = static_cast<uint32_t>((mix(seed, 5) + i) % count);
    if (fits(rank)) return rank;
  }
  return std::nullopt;
}

// To whom `rank` sends in a ring, else in the pipeline, across hosts (or, `inside`, within one).
std::optional<uint32_t> ring_peer(const Layout& layout, uint32_t rank, bool inside) {
  for (const Slot slot : {kData, kTp, kCp}) {
    if (!layout.has(slot) || (inside && slot == kData && layout.has(kTp))) continue;
    const Group& group = layout.groups[layout.group_of[slot][rank]];
    const uint32_t peer = group.ranks[(layout.position[slot][rank] + 1) % group.size()];
    if ((layout.host_of(peer) == layout.host_of(rank)) == inside) return peer;
  }
  if (layout.stages > 1 && layout.stage[rank] + 1 < layout.stages &&
      (layout.host_of(layout.next[rank]) == layout.host_of(rank)) == inside) {
    return layout.next[rank];
  }
  return std::nullopt;
}

// Whom `rank` sends to on other hosts (or, `incoming`, who sends to it): rings and pipeline.
std::vector<uint32_t> far_peers(const Layout& layout, uint32_t rank, bool incoming) {
  std::vector<uint32_t> peers;
  const auto add = [&](uint32_t peer) {
    if (layout.host_of(peer) == layout.host_of(rank)) return;
    if (std::ranges::find(peers, peer) == peers.end()) peers.push_back(peer);
  };
  for (const Slot slot : {kData, kTp, kCp}) {
    if (!layout.has(slot)) continue;
    const Group& group = layout.groups[layout.group_of[slot][rank]];
    const uint32_t n = group.size();
    add(group.ranks[(layout.position[slot][rank] + (incoming ? n - 1 : 1)) % n]);
  }
  if (layout.has(kEp)) {
    for (const uint32_t peer : layout.groups[layout.group_of[kEp][rank]].ranks) add(peer);
  }
  // Activations go one way, gradients the other.
  if (layout.stages > 1 && layout.stage[rank] + 1 < layout.stages) add(layout.next[rank]);
  if (layout.stages > 1 && layout.stage[rank] > 0) add(layout.previous[rank]);
  return peers;
}

// Where nothing but the fault itself would look like it: of a rank with one link to other hosts,
// nobody can say whether the link is slow, what the rank sends, or what its peer receives.
bool can_be_told(const Layout& layout, uint32_t rank, Class cls) {
  const auto sends = far_peers(layout, rank, false), receives = far_peers(layout, rank, true);
  switch (cls) {
    case Class::kSlowNic:
      return !sends.empty() && !receives.empty();
    case Class::kSlowTx:
      return sends.size() >= 2;
    default:
      return receives.size() >= 2;
  }
}

Status nothing_fits(const Fault& f, const std::string& why) {
  return {Code::kInvalidArgument, "fault " + fault_name(f.cls) + ": " + why};
}

Status choose_link(Fault& f, uint64_t seed, const Layout& layout, bool inside) {
  const char* needed = inside ? "no two neighbours of a ring or pipeline are on one host"
                              : "no ring or pipeline goes from host to host";
  if (f.rank < 0) {
    const auto rank = search(seed, layout.ranks,
                             [&](uint32_t r) { return ring_peer(layout, r, inside).has_value(); });
    if (!rank) return nothing_fits(f, needed);
    f.rank = static_cast<int>(*rank);
  }
  if (f.peer < 0) {
    const auto peer = ring_peer(layout, static_cast<uint32_t>(f.rank), inside);
    if (!peer) return nothing_fits(f, needed);
    f.peer = static_cast<int>(*peer);
  }
  return ok_status();
}

// Ranks that wait for each other in a circle: two call groups in the opposite order of others.
Status choose_cycle(ActiveFault& f, const Layout& layout) {
  const Slot inner = layout.has(kTp) ? kTp : kModel;
  if (!layout.has(kData) || !layout.has(inner)) {
    return nothing_fits(f.fault, "needs dp (or cp, ep) and tp or pp");
  }
  const auto b = static_cast<uint32_t>(f.fault.rank);
  const auto& inner_of = layout.group_of[inner];
  const auto& data_of = layout.group_of[kData];
  const auto c = search(f.seed, layout.ranks, [&](uint32_t r) {
    return inner_of[r] != inner_of[b] && data_of[r] != data_of[b] &&
           (inner == kModel || layout.stage[r] == layout.stage[b]) &&
           std::ranges::any_of(layout.groups[inner_of[r]].ranks,
                               [&](uint32_t d) { return data_of[d] == data_of[b]; }) &&
           std::ranges::any_of(layout.groups[inner_of[b]].ranks,
                               [&](uint32_t a) { return data_of[a] == data_of[r]; });
  });
  if (!c) return nothing_fits(f.fault, "the mesh has no such cycle");
  const auto meet = [&](uint32_t inner_group, uint32_t data_group) {
    for (const uint32_t r : layout.groups[inner_group].ranks) {
      if (data_of[r] == data_group) return r;
    }
    return b;
  };
  f.ranks = {b, *c};
  f.culprit.ranks = {b, meet(inner_of[*c], data_of[b]), *c, meet(inner_of[b], data_of[*c])};
  f.culprit.groups = {layout.groups[data_of[b]].id, layout.groups[inner_of[*c]].id,
                      layout.groups[data_of[*c]].id, layout.groups[inner_of[b]].id};
  return ok_status();
}

Status choose_sender(Fault& f, uint64_t seed, const Layout& layout) {
  if (layout.stages < 2) return nothing_fits(f, "needs pp");
  if (f.rank < 0) f.rank = static_cast<int>(mix(seed, 5) % layout.ranks);
  const auto rank = static_cast<uint32_t>(f.rank);
  // The ends of the pipeline have one neighbour that they send to.
  const bool forward =
      layout.stage[rank] + 1 < layout.stages && (layout.stage[rank] == 0 || mix(seed, 6) % 2 == 0);
  if (f.peer < 0) f.peer = static_cast<int>(forward ? layout.next[rank] : layout.previous[rank]);
  return ok_status();
}

std::vector<uint32_t> ranks_of_host(const Layout& layout, uint32_t host) {
  std::vector<uint32_t> ranks;
  for (uint32_t r = host * layout.per_host;
       r < std::min(layout.ranks, (host + 1) * layout.per_host); ++r) {
    ranks.push_back(r);
  }
  return ranks;
}

Status choose_fabric(Fault& f, uint64_t seed, const Cluster& cluster, const Layout& layout,
                     trace::Culprit& culprit) {
  const auto leaf_hosts = static_cast<uint32_t>(std::max(1, cluster.network.hosts_per_leaf));
  if (layout.hosts <= leaf_hosts) return nothing_fits(f, "needs hosts under more than one switch");
  if (f.host < 0) f.host = static_cast<int>(mix(seed, 5) % layout.hosts);
  const uint32_t first = static_cast<uint32_t>(f.host) / leaf_hosts * leaf_hosts;
  for (uint32_t h = first; h < std::min(layout.hosts, first + leaf_hosts); ++h) {
    culprit.hosts.push_back(host_name(h));
  }
  return ok_status();
}

Status choose_target(ActiveFault& a, const Cluster& cluster, const Layout& layout) {
  Fault& f = a.fault;
  const auto any_rank = [&] {
    if (f.rank < 0) f.rank = static_cast<int>(mix(a.seed, 5) % layout.ranks);
    a.culprit.ranks = {static_cast<uint32_t>(f.rank)};
  };
  switch (f.cls) {
    case Class::kUnknown:
      return nothing_fits(f, "there is no such fault");
    case Class::kSlowHost:
    case Class::kClockStep:
      if (f.host < 0) f.host = static_cast<int>(mix(a.seed, 5) % layout.hosts);
      a.culprit.hosts = {host_name(static_cast<uint32_t>(f.host))};
      return ok_status();
    case Class::kSlowNic:
    case Class::kSlowTx:
    case Class::kSlowRx: {
      if (f.rank < 0) {
        const auto rank =
            search(a.seed, layout.ranks, [&](uint32_t r) { return can_be_told(layout, r, f.cls); });
        if (!rank) return nothing_fits(f, "no rank has enough links to other hosts to be told");
        f.rank = static_cast<int>(*rank);
      }
      a.culprit.ranks = {static_cast<uint32_t>(f.rank)};
      return ok_status();
    }
    case Class::kSlowLink:
    case Class::kLinkFlap:
    case Class::kNetHang:
    case Class::kSlowIntranode:
      CONVOY_RETURN_IF_ERROR(choose_link(f, a.seed, layout, f.cls == Class::kSlowIntranode));
      a.culprit.links = {{static_cast<uint32_t>(f.rank), static_cast<uint32_t>(f.peer)}};
      break;
    case Class::kSlowFabric:
      return choose_fabric(f, a.seed, cluster, layout, a.culprit);
    case Class::kCheckpointStall:
      if (cluster.checkpoint_every == 0) return nothing_fits(f, "needs checkpoint_every");
      any_rank();
      return ok_status();
    case Class::kImbalanceStage:
      if (layout.stages < 2) return nothing_fits(f, "needs pp");
      if (f.stage < 0) f.stage = static_cast<int>(mix(a.seed, 5) % layout.stages);
      a.culprit.stage = f.stage;
      return ok_status();
    case Class::kImbalanceExpert:
      return layout.has(kEp) ? ok_status() : nothing_fits(f, "needs ep");
    case Class::kImbalanceData:
      return layout.mesh.size("dp") > 1 ? ok_status() : nothing_fits(f, "needs dp");
    case Class::kStorageStall:
    case Class::kHostPause:
    case Class::kWarmUp:
      return ok_status();
    case Class::kMessageUnmatched:
      CONVOY_RETURN_IF_ERROR(choose_sender(f, a.seed, layout));
      a.culprit.links = {{static_cast<uint32_t>(f.rank), static_cast<uint32_t>(f.peer)}};
      a.ranks = {static_cast<uint32_t>(f.peer)};
      return ok_status();
    case Class::kDeadlockCycle:
      any_rank();
      return choose_cycle(a, layout);
    default:
      any_rank();
  }
  a.ranks = {static_cast<uint32_t>(f.rank)};
  if (f.cls == Class::kCrash && f.whole_host) {
    const uint32_t host = layout.host_of(static_cast<uint32_t>(f.rank));
    a.ranks = ranks_of_host(layout, host);
    a.culprit.ranks.clear();
    a.culprit.hosts = {host_name(host)};
  }
  return ok_status();
}

Status check(const Fault& f, const Layout& layout) {
  const auto ranks = static_cast<int>(layout.ranks);
  if (f.rank >= ranks || f.peer >= ranks || f.host >= static_cast<int>(layout.hosts) ||
      f.stage >= static_cast<int>(layout.stages)) {
    return nothing_fits(f, "its rank, peer, host or stage is not in the mesh");
  }
  if (f.rank >= 0 && f.rank == f.peer) return nothing_fits(f, "rank and peer are the same");
  if (f.factor < 0 || f.seconds < 0 || f.on_s < 0 || f.off_s < 0 || f.factor > 1e6 ||
      f.seconds > 1e6 || f.on_s > 1e6 || f.off_s > 1e6) {
    return nothing_fits(f, "its sizes must be positive");
  }
  if (f.until != 0 && f.until < f.from) return nothing_fits(f, "it ends before it begins");
  return ok_status();
}

}  // namespace

Result<ActiveFault> complete(const Fault& fault, uint64_t seed, const Cluster& cluster,
                             const Layout& layout) {
  CONVOY_RETURN_IF_ERROR(check(fault, layout));
  ActiveFault active;
  active.fault = fault;
  active.seed = seed;
  fill_sizes(active.fault);
  CONVOY_RETURN_IF_ERROR(choose_target(active, cluster, layout));
  CONVOY_RETURN_IF_ERROR(check(active.fault, layout));
  return active;
}

}  // namespace convoy::sim
