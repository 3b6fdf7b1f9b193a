#pragma once

#include <cstdint>
#include <deque>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

// What the tracer knows of a job, as plain data: rings are drained into it, streams and files carry
// it (stream.h), the simulator makes it up, and the analysis reads it.
//
// Times of events are ns on the clock of the host that they happened on: any clock that runs
// evenly and is the same for all ranks of that host (CLOCK_MONOTONIC). ClockSamples tie it to the
// root's clock, the aggregator's CLOCK_REALTIME, on which verdicts are told. 0: not known, or not
// yet.
namespace convoy::trace {

struct Dimension {
  std::string name;
  uint32_t size = 1;
  bool operator==(const Dimension&) const = default;
};

struct JobInfo {
  std::string job;
  uint64_t generation = 0;
  uint32_t world_size = 0;
  // Innermost first, as in Mesh: a rank's coordinate is rank / (product of the sizes before) %
  // size. Empty: not known. Names with a meaning: tp, cp, ep, dp, pp.
  std::vector<Dimension> mesh;
  bool operator==(const JobInfo&) const = default;
};

// A communicator. The same name means the same group on all ranks.
struct GroupInfo {
  std::string name;
  std::vector<uint32_t> ranks;  // of the job, in the group's order
  bool operator==(const GroupInfo&) const = default;
};

// What an operation is: all of it but the sequence and times. Ranks of one collective must agree on
// all of it (`uneven`: on all but `bytes`).
struct Signature {
  uint32_t group = 0;     // Registry::groups
  std::string operation;  // all_reduce, all_gather, reduce_scatter, broadcast, reduce, gather,
                          // scatter, all_to_all, barrier, send, recv; others as they are called
  std::string dtype;      // float32, bfloat16, int64 …; empty: not known
  std::string reduction;  // sum, avg, max …; empty: none
  int32_t root = -1;      // rank of the job; -1: none
  int32_t peer = -1;      // of send and recv, rank of the job
  uint64_t bytes = 0;     // that this rank gives (receives, for recv)
  bool uneven = false;    // ranks may give different sizes
  bool operator==(const Signature&) const = default;

  bool is_message() const { return peer >= 0; }
};

// The names of a job, each known by a number from 0 on. The numbers are this Registry's own:
// streams carry their own. Not thread-safe. References stay valid.
class Registry {
 public:
  // The number of a group; the ranks of the first call count unless they were empty.
  uint32_t group(const GroupInfo& info);
  uint32_t signature(const Signature& signature);
  uint32_t name(std::string_view name);
  std::optional<uint32_t> find_name(std::string_view name) const;

  const std::deque<GroupInfo>& groups() const { return groups_; }
  const std::deque<Signature>& signatures() const { return signatures_; }
  const std::deque<std::string>& names() const { return names_; }

 private:
  struct SignatureHash {
    size_t operator()(const Signature& s) const;
  };
  std::deque<GroupInfo> groups_;
  std::deque<Signature> signatures_;
  std::deque<std::string> names_;
  std::unordered_map<std::string, uint32_t> group_of_;
  std::unordered_map<Signature, uint32_t, SignatureHash> signature_of_;
  std::unordered_map<std::string, uint32_t> name_of_;
};

// One rank's part in a collective, or one side of a message.
struct Operation {
  uint32_t signature = 0;  // Registry::signatures
  // From 1 on. Collectives are counted in each group, messages in each (group, sender, receiver);
  // both sides of one have the same number.
  uint32_t sequence = 0;
  int64_t issued = 0;     // the rank called it
  int64_t started = 0;    // it runs on the rank (the kernel, the transfer)
  int64_t completed = 0;  // for this rank
  bool operator==(const Operation&) const = default;
};

// A stretch of a thread's time. Spans of one thread nest.
struct SpanEvent {
  uint32_t name = 0;  // Registry::names; see `names`
  uint32_t thread = 0;
  int64_t begin = 0;
  int64_t end = 0;  // 0: not ended
  uint64_t value = 0;
  bool operator==(const SpanEvent&) const = default;
};

struct CounterEvent {
  uint32_t name = 0;  // Registry::names; see `names`
  int32_t peer = -1;  // rank of the job at the link's other end
  int64_t time = 0;
  uint64_t value = 0;
  bool operator==(const CounterEvent&) const = default;
};

// Names with a meaning for the analysis.
namespace names {
// Spans. The value of `step` is its number, from 1 on; of forward and backward the micro-batch.
inline constexpr const char* kStep = "step";
inline constexpr const char* kData = "data";  // reading and cutting samples
inline constexpr const char* kForward = "forward";
inline constexpr const char* kBackward = "backward";
inline constexpr const char* kAwaitStage = "await stage";  // for a neighbouring stage
inline constexpr const char* kReduceGradients = "reduce gradients";
inline constexpr const char* kOptimizer = "optimizer";
inline constexpr const char* kEvaluate = "evaluate";
inline constexpr const char* kCheckpoint = "checkpoint";  // what it keeps the training
inline constexpr const char* kGarbage = "garbage collection";
inline constexpr const char* kLaunch = "launch";   // the host hands work to the GPU
inline constexpr const char* kKernel = "kernel";   // of computation, on the GPU's thread
inline constexpr const char* kWarmUp = "warm-up";  // compilation, tuning: first steps

// Counters of a link, told by the rank on this side; sums since the beginning, `peer` is the other
// side. Waits tell where a sender's or receiver's time went.
inline constexpr const char* kSentBytes = "link sent bytes";
inline constexpr const char* kReceivedBytes = "link received bytes";
inline constexpr const char* kSendWait = "link send wait ns";        // on the wire
inline constexpr const char* kPeerWait = "link peer wait ns";        // receiver has no room
inline constexpr const char* kReceiveWait = "link receive wait ns";  // nothing has come
inline constexpr const char* kSourceWait = "link source wait ns";    // own data are not ready yet
inline constexpr const char* kDrainWait = "link drain wait ns";      // own side takes no data
inline constexpr const char* kRetransmits = "link retransmits";
inline constexpr const char* kRoundTrip = "link round trip ns";  // now, not a sum
// Counters of a rank's process; sums since the beginning.
inline constexpr const char* kRunQueue = "run queue ns";  // ready to run, but no core
inline constexpr const char* kProcessor = "processor ns";
inline constexpr const char* kPageFaults = "page faults";  // major ones
inline constexpr const char* kDiskWait = "disk wait ns";
// What the tracer costs, by timing itself: a sum; and of the last second, in millionths of the
// time. The level that it records at, as the number of a Level.
inline constexpr const char* kTracerCost = "tracer cost ns";
inline constexpr const char* kTracerShare = "tracer share ppm";
inline constexpr const char* kTracerLevel = "tracer level";
// Counters that need not be there.
inline constexpr const char* kTokens = "tokens";  // that this rank has worked on
}  // namespace names

// How a rank's process is, as its agent sees it from outside.
enum class Life : uint8_t {
  kUnknown,
  kRunning,
  kStopped,  // by a signal or a debugger
  kBlocked,  // in the kernel, uninterruptibly: a disk or a driver that does not answer
  kExited,   // with `exit_code`
  kKilled,   // by signal `exit_code`
};

const char* name_of(Life life);  // unknown, running, …
std::optional<Life> life_of(std::string_view name);

struct GroupProgress {
  uint32_t group = 0;  // collectives of it: the last number that was issued, started, completed
  uint32_t issued = 0, started = 0, completed = 0;
  bool operator==(const GroupProgress&) const = default;
};

// Where a rank stands: the heartbeat. All that a hang needs.
struct RankState {
  int64_t time = 0;  // on the host's clock
  Life life = Life::kUnknown;
  int32_t exit_code = 0;
  std::vector<GroupProgress> progress;
  std::vector<Operation> pending;  // issued, not completed; oldest first, the oldest 64 of them
  std::vector<SpanEvent> open;     // outermost first
  // Records lost since the beginning: overwritten before they were read, shed by the agent.
  uint64_t lost = 0, shed = 0;
  bool operator==(const RankState&) const = default;
};

// What one rank has done since its last batch.
struct Batch {
  uint32_t rank = 0;
  uint64_t generation = 0;
  uint64_t number = 0;   // from 1 on; a gap is a batch that was lost
  int64_t received = 0;  // on the root's clock; 0: has not come there
  std::string host;      // in a rank's first batch, and whenever it has changed; else empty
  int32_t pid = 0;       // as `host`; else 0
  std::vector<Operation> operations;  // completed ones, each told once, roughly in order
  std::vector<SpanEvent> spans;       // ended ones, each told once
  std::vector<CounterEvent> counters;
  std::optional<RankState> state;
  bool operator==(const Batch&) const = default;
};

// At `host_time` on the host's clock it was `root_time` on the root's, to within ± `error`.
struct ClockSample {
  std::string host;
  int64_t host_time = 0, root_time = 0, error = 0;
  bool operator==(const ClockSample&) const = default;
};

// Whatever takes a job's events: a file, the aggregator, the analysis. Numbers are those of one
// Registry, which outlives it.
class Sink {
 public:
  virtual ~Sink() = default;
  virtual void job(const JobInfo& job) = 0;
  virtual void batch(const Batch& batch) = 0;
  virtual void clock(const ClockSample& sample) = 0;
};

}  // namespace convoy::trace
