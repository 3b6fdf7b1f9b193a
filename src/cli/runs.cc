#include "src/cli/runs.h"

#include <filesystem>

namespace convoy::cli {

std::string newest_run_with(const std::string& file) {
  std::string newest;
  std::filesystem::file_time_type at{};
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("runs", error)) {
    const auto time = std::filesystem::last_write_time(entry.path() / file, error);
    if (error || (!newest.empty() && time <= at)) continue;
    newest = entry.path().string();
    at = time;
  }
  return newest;
}

}  // namespace convoy::cli
