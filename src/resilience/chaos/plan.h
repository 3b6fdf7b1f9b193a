#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// What `convoy chaos` does to a job, and when: from a scenario file, or drawn from a seed. Pure.
namespace convoy::resilience::chaos {

enum class Kind {
  kKill,            // SIGKILL of ranks
  kCrash,           // SIGSEGV of ranks
  kTerminate,       // SIGTERM of ranks
  kHalt,            // SIGSTOP of ranks, for good
  kPause,           // SIGSTOP of ranks, SIGCONT before the hang limit: must cost no recovery
  kHog,             // busy processes beside the job
  kMemory,          // a process beside the job that holds memory
  kKillSpare,       // SIGKILL
  kKillSupervisor,  // SIGKILL
  kHaltSupervisor,  // SIGSTOP
  kKillAgent,       // SIGKILL
  kKillTracer,      // SIGKILL of the aggregator
  kCorrupt,         // a byte of the newest saved step, then the agent and all ranks die
  kFlip,            // a bit of the parameters in a rank's memory
  kFlipGradient,    // the uppermost bit of a gradient's exponent there
  kDiskFull,        // of checkpoints
  kDiskSlow,        // the same disk: mostly frozen
  kCutLink,         // of this machine: nothing leaves it
  kSlowLink,        // so many kbit/s leave it
};
inline constexpr int kKinds = 19;

std::string_view name_of(Kind kind);
// Whether ranks lose their processes, so that the job must recover.
bool breaks_ranks(Kind kind);
bool flips(Kind kind);
bool strikes_disk(Kind kind);
bool strikes_link(Kind kind);

struct Fault {
  Kind kind = Kind::kKill;
  std::vector<int> ranks{};  // of kKill … kPause; one of kFlip…
  double after_s = 0;        // after the job is over the fault before
  int64_t at_step = -1;      // once this step is done; in place of after_s
  bool in_recovery = false;  // as soon as the job is recovering from the fault before
  double seconds = 1;        // that kPause, kHog, kMemory, what strikes the disk or the link take
  int64_t amount = 2;        // processes of kHog, MiB of kMemory, number of kFlip…'s bit, kbit/s
};
// Whether the job must recover: ranks have gone, or hold wrong values, or a machine may count as
// lost, since its link was cut for long.
bool needs_recovery(const Fault& fault);
// "kill of ranks 1 and 3, in the middle of a recovery".
std::string describe(const Fault& fault);
// As a scenario has it.
std::string to_json(const Fault& fault);

// What a job is like, as far as it matters to what may be done to it.
struct Target {
  int ranks = 1;
  bool has_spares = false;
  bool has_agent = false;
  bool has_tracer = false;
  bool has_folder = false;  // of checkpoints, which may be damaged
  int replicas = 1;         // that are compared with each other
  bool has_disk = false;    // of the folder's own
  bool can_freeze = false;  // that disk
  bool has_link = false;    // that may be cut
};
// `count` faults, on average `every_s` apart. The same for the same arguments, on every machine.
std::vector<Fault> draw(uint64_t seed, int count, double every_s, const Target& target);

// {"faults": [{"kind": "kill", "ranks": [3], "at_step": 20}, …]}. kInvalidArgument: which fault,
// what is wrong with it, and what there is.
Result<std::vector<Fault>> scenario_of_json(const std::string& text, const Target& target);

}  // namespace convoy::resilience::chaos
