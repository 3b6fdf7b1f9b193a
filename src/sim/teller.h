#pragma once

#include "src/sim/clocks.h"
#include "src/sim/links.h"

#include <vector>

// Tells a sink what agents would: each rank's batches in time, on their hosts' clocks, with what
// was lost on the way and what comes late.
namespace convoy::sim {

class Teller {
 public:
  Teller(const Cluster& cluster, const Layout& layout, Engine& engine, const Fabric& fabric,
         const Faults& faults, trace::Registry& registry, trace::Sink& sink, Outcome& outcome,
         uint64_t generation, Time begin);

  // All batches that are due until then; everything until then is known.
  void tell_until(Time until);
  // What is still on its way.
  void finish();

 private:
  struct Told {  // of a rank
    uint64_t number = 0, lost = 0;
    Time last = 0;      // batch
    Time late = 0;      // nothing arrives before
    bool over = false;  // its end has been told
    std::array<uint32_t, kSlots> completed{};
    Random random;
  };
  struct Late {
    int64_t received = 0;
    uint64_t order = 0;
    trace::Batch batch;
  };

  void batch(uint32_t rank, Time now);
  bool silent(uint32_t rank, Time now) const;
  void take_operations(uint32_t rank, Time now);
  void take_spans(uint32_t rank, Time now);
  void tell_state(uint32_t rank, Time now);
  void tell_life(uint32_t rank, Time now, trace::RankState& state);
  double disk_share(Name name) const;
  void send(uint32_t rank, Time now);
  void deliver(const trace::Batch& batch);
  void deliver_late(int64_t until);
  trace::Operation operation(uint32_t rank, const Done& done) const;
  trace::SpanEvent span(uint32_t rank, const SpanRecord& span) const;
  bool lost(Told& told) const {
    return cluster_.telemetry.loss > 0 && told.random.chance(cluster_.telemetry.loss);
  }

  const Cluster& cluster_;
  const Layout& layout_;
  Engine& engine_;
  const Faults& faults_;
  trace::Sink& sink_;
  Outcome& outcome_;
  const uint64_t generation_;
  const Time begin_, period_;
  HostClocks clocks_;
  std::array<uint32_t, kNames> names_{};
  CounterIds counters_{};
  std::optional<Links> links_;
  std::vector<Told> told_;
  std::vector<std::pair<Time, uint32_t>> order_;  // of ranks within a period
  uint64_t next_ = 0;                             // of order_, round after round
  std::vector<Time> next_sample_;                 // [host]
  std::vector<Late> late_;                        // a heap, the first to arrive on top
  uint64_t late_order_ = 0;
  trace::Batch batch_;  // reused
};

}  // namespace convoy::sim
