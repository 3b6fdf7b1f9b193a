#pragma once

#include <string>

namespace convoy::cli {

// The folder under runs/ whose `file` (a path in it) is the newest; "" if none has one.
std::string newest_run_with(const std::string& file);

}  // namespace convoy::cli
