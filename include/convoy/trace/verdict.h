#pragma once

#include <convoy/trace/event.h>

#include <array>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

// What the analysis says: plain data.
namespace convoy::trace {

enum class Class : uint8_t {
  kUnknown,  // something is wrong, and the evidence does not say what
  // Slow.
  kSlowCompute,          // one rank computes slower than its peers
  kSlowComputePeriodic,  // the same, from time to time (throttling)
  kSlowHost,             // all ranks of a host
  kSlowNic,              // a rank's network, both directions
  kSlowTx,               // what a rank sends
  kSlowRx,               // what a rank receives
  kSlowLink,             // one directed pair of ranks
  kSlowFabric,           // all links between two sets of hosts
  kLinkFlap,             // a link, for moments
  kSlowIntranode,        // links within a host
  kDataLoaderStall,
  kStorageStall,     // all ranks read or write slowly at the same time
  kHostPause,        // ranks pause in turn (garbage collection)
  kHostLaunchBound,  // a host hands work to its GPU too slowly
  kCheckpointStall,
  kWarmUp,  // first steps; suppressed
  // Wrong or stuck.
  kDesyncOrder,
  kMismatchSize,
  kMismatchDtype,
  kMismatchRoot,
  kMismatchReduction,
  kMissingCall,
  kNotJoined,
  kCrash,
  kHostHang,
  kGpuStuck,
  kNetHang,
  kDeadlockCycle,
  kMessageUnmatched,
  // Not a fault, but costs time.
  kImbalanceStage,
  kImbalanceExpert,
  kImbalanceData,
  // Of the tracing itself.
  kTelemetryLoss,
  kClockStep,
};
inline constexpr size_t kClasses = static_cast<size_t>(Class::kClockStep) + 1;

const char* name_of(Class c);  // SLOW_COMPUTE, …
const char* description_of(Class c);
const char* action_of(Class c);  // what to do about it

// Who is to blame. Empty lists: nobody in particular.
struct Culprit {
  std::vector<uint32_t> ranks;
  std::vector<std::string> hosts;
  std::vector<std::pair<uint32_t, uint32_t>> links;  // sender, receiver
  std::vector<uint32_t> groups;                      // Registry::groups
  int32_t stage = -1;                                // of the pipeline
  bool operator==(const Culprit&) const = default;
};

// A pointer into what was recorded.
struct Evidence {
  uint32_t rank = 0;
  uint32_t group = 0;     // Registry::groups
  uint32_t sequence = 0;  // 0: no operation
  std::string text;       // what is seen there, with numbers
};

struct Verdict {
  // Of the cause, while it gets better known: class and culprit may change. 0: by class and
  // culprit.
  uint64_t id = 0;
  Class cls = Class::kUnknown;
  Culprit culprit;
  int64_t onset = 0;       // on the root's clock
  int64_t told = 0;        // the same: when it was found
  int64_t due = 0;         // the same: what waits for it was overdue by then; 0: no deadline
  int64_t cleared = 0;     // the same: when it was over; 0: is not
  bool withdrawn = false;  // it was something else, that another verdict tells of
  double confidence = 0;   // 0 … 1
  Class runner_up = Class::kUnknown;
  double runner_up_confidence = 0;
  double cost = 0;      // of the step time, 0 … 1; stuck: 1
  double period_s = 0;  // of periodic ones
  std::vector<Evidence> evidence;
  std::string summary;  // one sentence, for people
  std::string action;
};

// A change that would make steps faster.
struct Hint {
  std::string name;  // lost overlap, small buckets, pipeline bubble, imbalance, algorithm …
  double gain = 0;   // of the step time, predicted by replay with the change made
  double confidence = 0;
  uint32_t setting = 0;  // the number that the advice names: micro-batches, calls a step; 0: none
  std::string summary;
  std::vector<Evidence> evidence;
};

}  // namespace convoy::trace
