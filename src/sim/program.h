#pragma once

#include "src/sim/layout.h"
#include <convoy/parallel/schedule/schedule.h>

#include <cstdint>
#include <string>
#include <vector>

// What a rank does in a step, as a list of instructions.
namespace convoy::sim {

// The names of events, in the order in which they are interned.
enum Name : uint8_t {
  kNameStep,
  kNameData,
  kNameForward,
  kNameBackward,
  kNameAwait,
  kNameReduce,
  kNameOptimizer,
  kNameEvaluate,
  kNameCheckpoint,
  kNameGarbage,
  kNameLaunch,
  kNameKernel,
  kNameWarmUp,
  kNames,
};

enum class Op : uint8_t {
  kBegin,       // a span `name` of the host
  kEnd,         // its end
  kData,        // the host reads samples
  kCompute,     // the host launches, the device computes for `cost`
  kCollective,  // the host calls it; the device waits for its end
  kAsync,       // the same, but on a stream of its own
  kAwaitAsync,  // host and device wait for all of those
  kSend,        // on `channel`; goes on at once
  kReceive,     // posts it on `channel`
  kAwait,       // the host waits for the message `value` of this step on `channel`
  kAwaitSends,
  kSync,  // the host waits for the device
  kSave,  // the host writes a checkpoint
  kFinish,
  // Faults.
  kHalt,   // the host never goes on
  kStick,  // the device never goes on
  kDie,    // the process dies in the collective that it has just begun
};

// Channels to and from the next (0) and the previous (1) stage.
struct Instruction {
  Op op = Op::kFinish;
  uint8_t channel = 0;
  Name name = kNameStep;
  bool expert = false;      // computation of experts
  bool breaks = false;      // a collective that never ends, in the network
  bool trap = false;        // with this a fault begins
  uint16_t collective = 0;  // Catalog
  uint32_t value = 0;
  float cost = 0;  // ns
};
using Program = std::vector<Instruction>;

struct Collective {
  Slot slot = kTp;
  std::string operation, dtype, reduction;
  int root = -1;  // position in the group
  uint64_t bytes = 0;
  bool uneven = false;
  bool operator==(const Collective&) const = default;
};

// All collectives that can occur; a rank's part in one is known by a number and its group.
class Catalog {
 public:
  Catalog(const Layout& layout, trace::Registry& registry) : layout_(layout), registry_(registry) {}
  // Its number; the same for the same collective.
  uint16_t add(const Collective& collective);
  const Collective& operator[](uint16_t i) const { return collectives_[i]; }
  size_t size() const { return collectives_.size(); }
  // The registry's signature of it in layout.groups[group].
  uint32_t signature(uint16_t collective, uint32_t group);

 private:
  const Layout& layout_;
  trace::Registry& registry_;
  std::vector<Collective> collectives_;
  std::vector<std::vector<uint32_t>> signatures_;  // [collective][group], kNone: not asked for yet
};

struct StepKind {
  bool more_work = false, evaluate = false, save = false;
  bool busy_experts = false;  // this rank's experts got more tokens than others'
  bool operator==(const StepKind&) const = default;
};

// Builds the programs of all stages from a cluster's description.
class ProgramBuilder {
 public:
  // `busy`: how many times as many tokens busy experts have.
  static Result<ProgramBuilder> create(const Cluster& cluster, const Layout& layout,
                                       Catalog& catalog, double busy = 1);
  Program build(uint32_t stage, const StepKind& kind) const;
  uint64_t message_bytes() const { return message_bytes_; }

 private:
  ProgramBuilder(const Cluster& cluster, const Layout& layout)
      : cluster_(&cluster), layout_(&layout) {}
  void add_collectives(Catalog& catalog, double busy);
  void compute(Program& to, const schedule::Action& action, uint32_t stage, bool last) const;
  void layers(Program& to, double cost, bool forward, int buckets) const;
  void actions(Program& to, uint32_t stage, const schedule::Schedule& schedule) const;
  void finish_step(Program& to) const;
  void evaluate(Program& to, uint32_t stage) const;
  double forward_ns(uint32_t stage, int chunk) const;

  const Cluster* cluster_;
  const Layout* layout_;
  schedule::Schedule usual_, more_;
  std::vector<int> layers_of_;  // [stage of the model]
  uint64_t message_bytes_ = 0;
  uint16_t samples_ = 0, gather_ = 0, scatter_ = 0, cp_gather_ = 0, cp_scatter_ = 0, dispatch_ = 0,
           combine_ = 0, busy_combine_ = 0, bucket_ = 0, tp_gradients_ = 0, norm_ = 0,
           parameters_ = 0, barrier_ = 0, loss_ = 0;
};

}  // namespace convoy::sim
