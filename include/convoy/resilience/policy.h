#pragma once

#include <cstdint>
#include <string>
#include <vector>

// What to do about a fault. Pure: the same job, history and fault give the same plan; nothing here
// looks at a clock, sends or waits. Whoever carries a plan out reports how it went with the next
// fault. Blocks and nodes are named by their place in Job's lists; all that are named must exist.
namespace convoy::resilience {

using Step = int64_t;
using Seconds = double;

inline constexpr int kNone = -1;

enum class NodeState : uint8_t {
  kHealthy,
  kUnchecked,  // new, or back: not before it has passed the pre-flight checks
  kDraining,   // to be freed for maintenance; goes on until then
  kQuarantined,
  kLost,
};

struct Node {
  std::string name{};
  int slots = 1;  // blocks that it has room for
  int warm = 0;   // of the free slots: those where spare workers wait, started and ready
  NodeState state = NodeState::kHealthy;
};

// Ranks that have to share a node, as those of a tensor-parallel group do, are one block. They are
// lost, placed and moved together.
struct Block {
  int replica = 0;   // of the model; numbers need not be without gaps
  int part = 0;      // of the model, 0 … parts - 1: a pipeline stage
  int node = kNone;  // kNone: has no place
  bool is_alive = true;
};

// Where a block's state can be had, and of which step.
struct Copy {
  int block = 0;
  int node = kNone;  // that has to live; kNone: outlives all nodes
  Step step = 0;     // the training would go on behind
  Seconds load = 0;
};

// Measured on this job; what was not yet measured stands at a cautious guess.
struct Costs {
  Seconds step = 1;
  Seconds reconfigure = 0.3;  // groups of those that live, by themselves
  Seconds promote = 0.3;      // a warm spare takes a block's place
  Seconds respawn = 10;       // a process is started and ready
  Seconds replica_load = 1;   // state from a live replica
  Seconds repair = 3600;      // until a lost node is back, or another one is there
};

enum class Shrinking : uint8_t {
  kNever,     // the mesh is kept: bit for bit the same run
  kIfNeeded,  // rather than stand still
  kToBridge,  // also while another worker is started
};

struct Job {
  std::vector<Node> nodes{};
  std::vector<Block> blocks{};  // replicas_wanted × parts, those without a place too
  int parts = 1;
  int replicas_min = 1;
  // Parameters and optimizer state of a block are also on those of the same part in other replicas.
  bool is_replicated = true;
  Shrinking shrinking = Shrinking::kIfNeeded;
  Step step = 0;  // the newest that all have completed
  std::vector<Copy> copies{};
  Costs costs{};
};

enum class FaultKind : uint8_t {
  kExit,         // a process has ended by itself: an error, a crash
  kKilled,       // from outside, which is nobody's fault in the program
  kOutOfMemory,  // by the kernel, or of a device
  kHang,         // found by the tracer; the process lives
  kNodeLost,
  kNetwork,     // groups have failed, all processes live
  kCorruption,  // state or gradient of a replica differs from the others'
  kNonFinite,   // loss or gradient, on all replicas alike
  kMismatch,    // ranks called different things: the program's mistake
  kSlow,
  kDrain,     // the node is to be freed
  kReturned,  // a node is there (again), or has passed its checks
};
const char* name_of(FaultKind kind);

struct Fault {
  FaultKind kind = FaultKind::kExit;
  std::vector<int> blocks{};  // that are to blame
  std::vector<int> nodes{};   // the same; of kNodeLost, kDrain, kReturned
  Step step = 0;              // in which it happened
  Seconds at = 0;             // since the job's start
  double slow_down = 0;       // of kSlow: share of the step time that it costs
  bool is_one_more = false;   // struck with the one before: nobody had tried the step again
};

// Faults so far, oldest first, the one in question not among them.
struct Incident {
  Fault fault;
  std::vector<int> nodes{};  // on which it happened
  bool is_over = true;       // false: it came before the last recovery had brought a step
};
using History = std::vector<Incident>;

enum class Action : uint8_t {
  kNothing,      // watch
  kReconfigure,  // the same processes form new groups
  kRespawn,      // a new process on the same node
  kReplace,      // other places for some blocks
  kShrink,       // fewer replicas
  kGrow,         // more replicas
  kWait,         // for nodes: what lives is not enough
  kReshape,      // another mesh; no decision of decide()'s
  kRestart,      // all processes anew
  kStop,
};
const char* name_of(Action action);

struct Move {
  int block = 0;
  int node = 0;
  bool is_warm = false;  // a spare is there
};

struct Plan {
  Action action = Action::kNothing;
  bool at_border = false;      // nothing is broken: at the next step's border will do
  std::vector<Move> moves{};   // blocks that get another process
  std::vector<int> dropped{};  // blocks without a place from now on; those that live become spares
  std::vector<int> quarantined{};  // nodes, not to be used before they have passed their checks
  std::vector<int> heal{};         // blocks whose state is not to be trusted, to be loaded anew
  Step resume = 0;                 // behind this step
  Seconds down = 0, cost = 0;      // expected: nobody trains; and all that it costs, later too
  std::string reason{};            // a sentence for people
};

Plan decide(const Job& job, const History& history, const Fault& fault);

}  // namespace convoy::resilience
