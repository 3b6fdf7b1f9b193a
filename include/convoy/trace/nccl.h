#pragma once

#include <cstdint>
#include <string_view>
#include <vector>

// NCCL's profiler plugin (docs/nccl_plugin.md): it runs by itself once NCCL_PROFILER_PLUGIN names
// it; here is what others may tell it and read of it.
namespace convoy::trace {

// Whose ranks a communicator has: NCCL tells a plugin numbers within the communicator only.
// `communicator` is its name (ncclConfig_t.commName; torch gives its group's name), `ranks` are
// those of the job, in the communicator's order. Counts for communicators that are made later.
// Without it, one as large as the job is taken for the job's own order, and of others operations
// and links tell numbers within the group (parse_membership()). Thread-safe.
void name_communicator(std::string_view communicator, std::vector<uint32_t> ranks);

namespace nccl {

// Names of counters, beside those of event.h. What the plugin could not use; sums of the process.
inline constexpr const char* kDropped = "nccl dropped events";  // no room to follow them
inline constexpr const char* kStale = "nccl stale handles";     // of events that had ended
inline constexpr const char* kBogusTimes = "nccl bogus times";  // of kernels; the host's are taken
inline constexpr const char* kUntold = "nccl untold ends";      // taken from a later operation's
// How long single steps took since the last record, all channels to this peer together; errors as
// of Sketch.
inline constexpr const char* kSendStepMedian = "link send step p50 ns";
inline constexpr const char* kSendStepTail = "link send step p99 ns";
inline constexpr const char* kReceiveStepMedian = "link receive step p50 ns";
inline constexpr const char* kReceiveStepTail = "link receive step p99 ns";

// Names of instants, one for each step of 512 KiB or so, at its end, at level details. `sequence`
// is the step's number in its proxy operation, `extra` peer + 1, and 24 bits to the left the
// channel; `value` three times in units of 64 ns, 21 bits each, the last one to the right: what
// the step waited for (send: own data, the peer, the wire; receive: the wire, the flush, the GPU).
inline constexpr const char* kSendStep = "nccl send step";
inline constexpr const char* kReceiveStep = "nccl receive step";

}  // namespace nccl
}  // namespace convoy::trace
