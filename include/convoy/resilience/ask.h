#pragma once

#include <convoy/base/status.h>

#include <string>

namespace convoy::resilience {

// Asks the supervisor of the job whose run folder this is: "status" (JSON: docs/recovery.md),
// "restart" (all processes anew). Blocks for 5 s at most. kNotFound: no such folder; kUnavailable:
// no job runs there, or its workers don't want to be led; kDeadlineExceeded.
Result<std::string> ask(const std::string& run_dir, const std::string& what);

}  // namespace convoy::resilience
