#pragma once

#include "src/resilience/chaos/plan.h"
#include "src/resilience/chaos/sight.h"
#include <convoy/base/clock.h>

#include <string>
#include <vector>

// Carries faults out. Nothing but the job's own processes is ever struck, and nothing counts as
// done before it was seen: the process has ended, has halted, holds the memory; a page can't be
// written to the disk,
// the link's queue holds packets back.
namespace convoy::resilience::chaos {

struct Struck {
  std::vector<int> ranks{};            // whose processes were struck
  std::vector<ProcessId> processes{};  // that must be gone, or come back (kPause)
  std::vector<pid_t> helpers{};        // of ours: busy ones, one that holds memory or a disk
  int64_t damaged_step = -1;           // of the checkpoint folder
  int64_t flipped_step = -1;           // that was done when a bit flipped
};

struct StrikeSetting {
  Sight sight{};
  Household home{};
  std::string checkpoints{};  // folder; "": none
  std::string link{};         // network device; "": none
};

// Blocks until the fault is seen to have happened; for kPause also until it is over.
// kFailedPrecondition: it can't be done now (a rank has no process at this moment);
// kDeadlineExceeded: it was done, and did nothing.
Result<Struck> strike(const Fault& fault, const StrikeSetting& setting);
// Ends the helpers.
void end_helpers(Struck& struck);

}  // namespace convoy::resilience::chaos
