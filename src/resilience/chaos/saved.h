#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>

// What a folder of checkpoints has, as it looks from outside.
namespace convoy::resilience::chaos {

// -1: none.
int64_t newest_saved_step(const std::string& folder);
// Flips a bit of the newest committed step; the step.
Result<int64_t> damage_newest_step(const std::string& folder);

}  // namespace convoy::resilience::chaos
