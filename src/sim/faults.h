#pragma once

#include "src/sim/layout.h"
#include "src/sim/program.h"
#include <convoy/sim/cluster.h>

#include <span>
#include <vector>

// What faults do: to the durations of a rank's step, to its program, to transfers.
namespace convoy::sim {

// Of one rank in one step.
struct Effects {
  float compute = 1, expert = 1, launch = 1, tokens = 1;
  bool periodic = false;  // compute is to be asked for at each instruction
  bool busy_experts = false;
  Time data_stall = 0, save_stall = 0, pause = 0, warm_up = 0;
  uint32_t pause_at = 0;  // before so many computations
};

// A fault with its target filled in, and what has become of it.
struct ActiveFault {
  Fault fault;
  uint64_t seed = 0;
  std::vector<uint32_t> ranks;  // whose programs change, in the first step
  Time onset = kNever, over = kNever;
  uint32_t step = 0;  // of the onset
  trace::Culprit culprit;

  bool in(uint32_t step_now) const {
    return step_now >= fault.from && (fault.until == 0 || step_now <= fault.until);
  }
};

class Faults {
 public:
  static Result<Faults> create(const Cluster& cluster, const Layout& layout);

  Effects effects(uint32_t rank, uint32_t step) const;
  // Of periodic faults, now.
  float periodic(uint32_t rank, uint32_t step, Time now) const;
  // The faults that change the program of `rank` in `step`; few.
  bool changes_program(uint32_t rank, uint32_t step) const;
  void change_program(Program& program, uint32_t rank, uint32_t step, Catalog& catalog) const;
  // Called when a rank begins a step: faults of which it is a target begin.
  void note_begin(uint32_t rank, uint32_t step, Time now);
  // A fault in a program has come to be executed.
  void note_trap(uint32_t rank, uint32_t step, Time now);

  std::span<const ActiveFault> all() const { return faults_; }
  double busiest_experts() const;

 private:
  Faults(const Cluster& cluster, const Layout& layout) : cluster_(&cluster), layout_(&layout) {}
  bool targets(const ActiveFault& f, uint32_t rank) const;
  void apply(const ActiveFault& f, uint32_t rank, uint32_t step, Effects& to) const;

  const Cluster* cluster_;
  const Layout* layout_;
  std::vector<ActiveFault> faults_;
};

// Fills in what `fault` leaves open; kInvalidArgument where the layout can't have it.
Result<ActiveFault> complete(const Fault& fault, uint64_t seed, const Cluster& cluster,
                             const Layout& layout);
// Changes the program of one of fault.ranks in the step in which the fault begins (or, for wrong
// calls that go on, in each). False: the program has no place for it.
bool apply_to_program(const ActiveFault& fault, uint32_t rank, const Layout& layout,
                      Catalog& catalog, Program& program);
bool is_program_fault(trace::Class cls);
// Of those: goes on in each step.
bool is_persistent(trace::Class cls);
bool is_network_fault(trace::Class cls);

}  // namespace convoy::sim
