#pragma once

#include "src/sim/faults.h"

#include <array>
#include <optional>
#include <vector>

// How long transfers take, and which edge of a ring is to blame.
namespace convoy::sim {

// Edges of a ring that a fault makes slow.
struct Touch {
  uint32_t fault = 0;
  std::vector<uint32_t> senders;  // positions in the group
};

struct Transfer {
  Time duration = 0;
  float slow = 1;                // how many times as long as without faults
  const Touch* touch = nullptr;  // of the slowest fault
};

struct LinkHealth {
  double round_trip_ns = 0;
  double retransmits_per_s = 0;
};

class Fabric {
 public:
  Fabric(const Cluster& cluster, const Layout& layout, const Catalog& catalog,
         const Faults& faults);

  Transfer collective(uint16_t which, uint32_t group, Time begin, uint32_t step,
                      float jitter) const;
  // What a rank has sent (and received) in one, over all its links.
  double moved_bytes(uint16_t which) const;
  Transfer message(uint32_t from, uint32_t to, uint64_t bytes, Time begin, uint32_t step,
                   float jitter) const;
  LinkHealth health(uint32_t from, uint32_t to, Time now) const;
  bool affects(uint32_t fault, uint32_t from, uint32_t to) const;
  bool same_host(uint32_t a, uint32_t b) const {
    return layout_->host_of(a) == layout_->host_of(b);
  }

 private:
  struct Cost {
    double latency = 0, transfer = 0;  // ns
  };
  double work_out_moved(const Collective& c) const;
  bool affects(const Fault& fault, uint32_t from, uint32_t to) const;
  Cost cost(uint16_t which, bool intranode) const;
  const Cost& known_cost(uint16_t which, bool intranode) const;
  void touch_groups(uint32_t fault);
  // Transfers stand still while a link is away.
  Time flaps(const ActiveFault& f, Time begin, Time duration) const;

  const Cluster* cluster_;
  const Layout* layout_;
  const Catalog* catalog_;
  const Faults* faults_;
  std::vector<std::vector<Touch>> touches_;  // [group]
  std::vector<uint32_t> network_faults_;
  mutable std::vector<std::array<std::optional<Cost>, 2>> costs_;  // worked out once
  mutable std::vector<double> moved_;                              // the same
};

}  // namespace convoy::sim
