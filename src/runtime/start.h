#pragma once

#include <convoy/launch/environment.h>

#include <string>

namespace convoy::runtime {

// Of the store's keys and the groups' names, so that nothing of one generation meets another's.
std::string prefix_of(int generation);

// From here on what this rank does is recorded, if the environment wants that.
void start_trace(const launch::Environment& environment, int generation);

}  // namespace convoy::runtime
