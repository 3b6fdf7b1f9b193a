// Costs of transfers: a latency for each hop and bytes at the pace of the slowest edge, as a ring
// or, where that is faster, as a tree.
#include "src/sim/network.h"

#include <algorithm>
#include <cmath>

namespace convoy::sim {

using trace::Class;

Fabric::Fabric(const Cluster& cluster, const Layout& layout, const Catalog& catalog,
               const Faults& faults)
    : cluster_(&cluster),
      layout_(&layout),
      catalog_(&catalog),
      faults_(&faults),
      touches_(layout.groups.size()) {
  for (uint32_t i = 0; i < faults.all().size(); ++i) {
    const Class cls = faults.all()[i].fault.cls;
    if (!is_network_fault(cls) && cls != Class::kNetHang) continue;
    network_faults_.push_back(i);
    touch_groups(i);
  }
}

void Fabric::touch_groups(uint32_t fault) {
  const Fault& f = faults_->all()[fault].fault;
  for (uint32_t g = 0; g < layout_->groups.size(); ++g) {
    const Group& group = layout_->groups[g];
    Touch touch{fault, {}};
    for (uint32_t p = 0; p < group.size(); ++p) {
      const uint32_t from = group.ranks[p];
      // An exchange uses the links between all, a ring those to the next.
      const bool is_slow =
          group.slot == kEp
              ? std::ranges::any_of(group.ranks,
                                    [&](uint32_t to) { return to != from && affects(f, from, to); })
              : affects(f, from, group.ranks[(p + 1) % group.size()]);
      if (is_slow) touch.senders.push_back(p);
    }
    if (!touch.senders.empty()) touches_[g].push_back(std::move(touch));
  }
}

bool Fabric::affects(uint32_t fault, uint32_t from, uint32_t to) const {
  return affects(faults_->all()[fault].fault, from, to);
}

bool Fabric::affects(const Fault& f, uint32_t from, uint32_t to) const {
  const auto rank = static_cast<uint32_t>(f.rank), peer = static_cast<uint32_t>(f.peer);
  switch (f.cls) {
    case Class::kSlowNic:
      return !same_host(from, to) && (from == rank || to == rank);
    case Class::kSlowTx:
      return !same_host(from, to) && from == rank;
    case Class::kSlowRx:
      return !same_host(from, to) && to == rank;
    case Class::kSlowLink:
    case Class::kLinkFlap:
    case Class::kNetHang:
      return from == rank && to == peer;
    case Class::kSlowIntranode:
      return (from == rank && to == peer) || (from == peer && to == rank);
    case Class::kSlowFabric: {
      const uint32_t hosts = static_cast<uint32_t>(std::max(1, cluster_->network.hosts_per_leaf));
      const uint32_t leaf = static_cast<uint32_t>(f.host) / hosts;
      return (layout_->host_of(from) / hosts == leaf) != (layout_->host_of(to) / hosts == leaf);
    }
    default:
      return false;
  }
}

double Fabric::moved_bytes(uint16_t which) const {
  while (moved_.size() < catalog_->size())
    moved_.push_back(work_out_moved((*catalog_)[moved_.size()]));
  return moved_[which];
}

double Fabric::work_out_moved(const Collective& c) const {
  const auto bytes = static_cast<double>(c.bytes);
  const double n = layout_->size(c.slot);
  if (c.operation == "all_reduce") return 2 * (n - 1) / n * bytes;
  if (c.operation == "all_gather") return (n - 1) * bytes;
  if (c.operation == "broadcast") return bytes;
  return (n - 1) / n * bytes;
}

Fabric::Cost Fabric::cost(uint16_t which, bool intranode) const {
  const Network& net = cluster_->network;
  const Collective& c = (*catalog_)[which];
  const double hop = 1e3 * (intranode ? net.intranode_latency_us : net.internode_latency_us);
  const double per_byte = 1e9 / (intranode ? net.intranode_bytes_per_s : net.internode_bytes_per_s);
  const double n = layout_->size(c.slot);
  const double moved = moved_bytes(which) * per_byte;
  if (c.operation == "all_to_all") return {hop * std::log2(n), moved};
  const double rounds = c.operation == "all_reduce" ? 2 : 1;
  const Cost ring{rounds * (n - 1) * hop, moved};
  const Cost tree{rounds * std::ceil(std::log2(n)) * hop, 1.2 * moved};
  return ring.latency + ring.transfer < tree.latency + tree.transfer ? ring : tree;
}

const Fabric::Cost& Fabric::known_cost(uint16_t which, bool intranode) const {
  if (costs_.size() < catalog_->size()) costs_.resize(catalog_->size());
  std::optional<Cost>& known = costs_[which][intranode ? 1 : 0];
  if (!known) known = cost(which, intranode);
  return *known;
}

Time Fabric::flaps(const ActiveFault& f, Time begin, Time duration) const {
  if (f.onset == kNever || begin + duration <= f.onset) return duration;
  const Time away = nanoseconds(f.fault.seconds);
  const Time period = away + nanoseconds(f.fault.off_s);
  // The first absence that is not over at `begin`; one is enough: a transfer is shorter than what
  // lies between two.
  const Time since = std::max<Time>(0, begin - f.onset);
  Time from = f.onset + since / period * period;
  if (from + away <= begin) from += period;
  if (begin + duration <= from) return duration;
  return duration + (from + away) - std::max(from, begin);
}

Transfer Fabric::collective(uint16_t which, uint32_t group, Time begin, uint32_t step,
                            float jitter) const {
  const Cost& base = known_cost(which, layout_->groups[group].intranode);
  const double usual = (base.latency + base.transfer) * jitter;
  Transfer transfer{to_time(usual), 1, nullptr};
  for (const Touch& touch : touches_[group]) {
    const ActiveFault& f = faults_->all()[touch.fault];
    if (!f.in(step) || f.fault.cls == Class::kNetHang) continue;
    Time longer = 0;
    if (f.fault.cls == Class::kLinkFlap) {
      longer = flaps(f, begin, transfer.duration);
    } else {
      double factor = f.fault.factor;
      // Of an exchange of all with all, a link carries one of n - 1 parts.
      const bool pair = f.fault.cls == Class::kSlowLink || f.fault.cls == Class::kSlowIntranode;
      if (pair && (*catalog_)[which].operation == "all_to_all") {
        factor = std::max(1.0, factor / (layout_->groups[group].size() - 1));
      }
      longer = to_time((base.latency + base.transfer * factor) * jitter);
    }
    if (longer <= transfer.duration) continue;
    transfer = {longer, static_cast<float>(static_cast<double>(longer) / usual), &touch};
  }
  return transfer;
}

Transfer Fabric::message(uint32_t from, uint32_t to, uint64_t bytes, Time begin, uint32_t step,
                         float jitter) const {
  const Network& net = cluster_->network;
  const bool inside = same_host(from, to);
  const double latency = 1e3 * (inside ? net.intranode_latency_us : net.internode_latency_us);
  const double wire = static_cast<double>(bytes) * 1e9 /
                      (inside ? net.intranode_bytes_per_s : net.internode_bytes_per_s);
  const double usual = (latency + wire) * jitter;
  Transfer transfer{to_time(usual), 1, nullptr};
  for (const uint32_t i : network_faults_) {
    const ActiveFault& f = faults_->all()[i];
    if (!f.in(step) || f.fault.cls == Class::kNetHang || !affects(f.fault, from, to)) continue;
    const Time longer = f.fault.cls == Class::kLinkFlap
                            ? flaps(f, begin, transfer.duration)
                            : to_time((latency + wire * f.fault.factor) * jitter);
    if (longer > transfer.duration) {
      transfer = {longer, static_cast<float>(static_cast<double>(longer) / usual), nullptr};
    }
  }
  return transfer;
}

LinkHealth Fabric::health(uint32_t from, uint32_t to, Time now) const {
  const Network& net = cluster_->network;
  const bool inside = same_host(from, to);
  LinkHealth health{2e3 * (inside ? net.intranode_latency_us : net.internode_latency_us),
                    inside ? 0.0 : 0.02};
  for (const uint32_t i : network_faults_) {
    const ActiveFault& f = faults_->all()[i];
    if (now < f.onset || now >= f.over || !affects(f.fault, from, to)) continue;
    switch (f.fault.cls) {
      case Class::kSlowNic:  // queues, but nothing is lost
      case Class::kSlowIntranode:
        health.round_trip_ns *= std::min(6.0, f.fault.factor);
        break;
      case Class::kSlowTx:
      case Class::kSlowRx:
        health.round_trip_ns *= 2;
        health.retransmits_per_s += 40 * f.fault.factor;
        break;
      case Class::kLinkFlap: {
        const Time period = nanoseconds(f.fault.seconds + f.fault.off_s);
        const bool lately = (now - f.onset) % period < nanoseconds(f.fault.seconds) + kSecond;
        health.retransmits_per_s += lately ? 30 : 0;
        break;
      }
      case Class::kNetHang:
        health.retransmits_per_s += 4;
        break;
      default:  // paths that collide: queues and some loss
        health.round_trip_ns *= std::min(8.0, 1.5 * f.fault.factor);
        health.retransmits_per_s += 3;
    }
  }
  return health;
}

}  // namespace convoy::sim
