#pragma once

#include "src/sim/engine.h"

#include <vector>

// What a rank's process counts of its links and of itself.
namespace convoy::sim {

// Counters as they are interned, in this order.
enum CounterName : uint8_t {
  kCountSent,
  kCountReceived,
  kCountSendWait,
  kCountPeerWait,
  kCountReceiveWait,
  kCountSourceWait,
  kCountRetransmits,
  kCountRoundTrip,
  kCountRunQueue,
  kCountProcessor,
  kCountPageFaults,
  kCountDiskWait,
  kCountTokens,
  kCounters,
};
using CounterIds = std::array<uint32_t, kCounters>;

class Links {
 public:
  Links(const Cluster& cluster, const Layout& layout, const Fabric& fabric, const Faults& faults,
        const CounterIds& ids);

  void add(uint32_t rank, const Done& done);
  // Time goes by in collectives that do not end, for `span` ns until `now`.
  void add_stuck(uint32_t rank, const Engine& engine, Time now, Time span);
  void add_disk_wait(uint32_t rank, double ns) { processes_[rank].disk_wait += ns; }
  // Counters of a rank that have changed since the last time; times are set by the caller.
  void tell(uint32_t rank, const Rank& state, Time now, Time span,
            std::vector<trace::CounterEvent>& to);

 private:
  struct Link {
    uint32_t peer = 0;
    bool out = false, in = false;  // has carried something since the last time
    double sent = 0, received = 0, send = 0, peer_wait = 0, receive = 0, source = 0;
    double retransmits = 0;
    uint64_t told_retransmits = 0;
  };
  struct Process {
    std::vector<Link> links;
    std::array<uint8_t, kLanes> out{}, in{};  // of links; kNoLink
    std::array<uint8_t, 2> all{};             // links of an exchange of all with all
    double run_queue = 0, processor = 0, disk_wait = 0;
    uint64_t page_faults = 0;
    bool cut = false;  // its part of a broken transfer has been counted
    Random random;
  };
  static constexpr uint8_t kNoLink = 255;

  uint8_t link(Process& process, uint32_t peer);
  void add_peers(uint32_t rank);
  void add_cut(uint32_t rank, const Group& group, uint32_t position);
  void tell_link(uint32_t rank, Process& process, Link& link, Time now, Time span,
                 std::vector<trace::CounterEvent>& to);
  void put(std::vector<trace::CounterEvent>& to, CounterName name, int32_t peer,
           double value) const {
    to.push_back(
        {.name = ids_[name], .peer = peer, .time = 0, .value = static_cast<uint64_t>(value)});
  }

  const Layout& layout_;
  const Fabric& fabric_;
  const Faults& faults_;
  const CounterIds ids_;
  std::vector<Process> processes_;
};

}  // namespace convoy::sim
