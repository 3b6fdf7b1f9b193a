#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>

// What can be done to a network device of this machine: to what leaves it, by the kernel's token
// bucket (tc-tbf(8)). Answers don't leave it either, so a cut holds in both directions. Routes and
// addresses stay. Takes root.
namespace convoy::resilience::chaos {

// kFailedPrecondition: no such device, no right to, or it has a queue that somebody has set up.
Status may_shape(const std::string& device);

// The work of a helper process: until it gets SIGTERM the device lets `kbit_per_s` through, or
// nothing (0). Afterwards it has its usual queue again.
void keep_shaped(const std::string& device, int64_t kbit_per_s);

Status await_shaped(const std::string& device);
// Packets that were dropped or held back since then; they show that somebody used the link.
int64_t packets_hit(const std::string& device);

}  // namespace convoy::resilience::chaos
