#pragma once

#include "src/cli/commands.h"

namespace convoy::cli {

// Adds `simulate` to `convoy trace`.
void add_trace_simulate(CLI::App& group, Invocation& invocation);

}  // namespace convoy::cli
