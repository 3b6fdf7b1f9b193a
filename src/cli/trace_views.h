#pragma once

#include "src/cli/commands.h"

// Those of `convoy trace` that show a job, stored or running.
namespace convoy::cli {

void add_trace_report(CLI::App& group, Invocation& invocation);
void add_trace_replay(CLI::App& group, Invocation& invocation);
void add_trace_top(CLI::App& group, Invocation& invocation);

}  // namespace convoy::cli
