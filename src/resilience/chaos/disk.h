#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>

// What can be done to the disk under a folder of checkpoints. keep_…() are the work of a helper
// process: they return when it gets SIGTERM, and nothing of them is left then.
namespace convoy::resilience::chaos {

// Nobody but the job feels what is done to a file system of the folder's own.
struct OwnDisk {
  bool is_own = false;      // a file system is mounted on the folder
  bool can_freeze = false;  // by us; memory (tmpfs) can't be
};
OwnDisk own_disk(const std::string& folder);

// Full, down to the last page, by a file without a name: it goes with its process.
void keep_full(const std::string& folder);
// Frozen nine tenths of the time: what is written meanwhile waits.
void keep_slow(const std::string& folder);

// Whether it can be seen from here; kDeadlineExceeded: it can't.
Status await_full(const std::string& folder);
Status await_slow(const std::string& folder);

// kFailedPrecondition: so much is above half of the free memory, which others on the machine need.
Status may_hold(int64_t mib);
// kFailedPrecondition: it lies in memory and filling it would take too much.
Status may_fill(const std::string& folder);

}  // namespace convoy::resilience::chaos
