#include "src/resilience/chaos/saved.h"

#include <convoy/base/fd.h>

#include <algorithm>
#include <cerrno>
#include <cstdio>
#include <fcntl.h>
#include <filesystem>
#include <string_view>
#include <tuple>
#include <unistd.h>
#include <vector>

namespace convoy::resilience::chaos {
namespace {

namespace fs = std::filesystem;

// Claim, step and name of a record: the newest is the one of the highest claim.
using Commit = std::tuple<int64_t, int64_t, std::string>;

// "s000000000120-c00000007" -> (7, 120, …).
Commit commit_of(const std::string& name) {
  long long step = -1, claim = -1;
  if (std::sscanf(name.c_str(), "s%lld-c%lld", &step, &claim) != 2) return {-1, -1, ""};
  return {claim, step, name};
}

Status flip_a_bit(const fs::path& path) {
  const UniqueFd file(::open(path.c_str(), O_RDWR | O_CLOEXEC));
  if (!file) return errno_status("opening " + path.string(), errno);
  const off_t at = ::lseek(file.get(), 0, SEEK_END) / 2;
  unsigned char byte = 0;
  if (::pread(file.get(), &byte, 1, at) != 1) return errno_status("reading " + path.string(), EIO);
  byte ^= 1U;
  if (::pwrite(file.get(), &byte, 1, at) != 1) return errno_status("writing " + path.string(), EIO);
  return ok_status();
}

std::vector<Commit> commits_of(const std::string& folder) {
  std::error_code error;
  std::vector<Commit> commits;
  for (const auto& entry : fs::directory_iterator(folder + "/commits", error)) {
    commits.push_back(commit_of(entry.path().filename().string()));
    if (std::get<0>(commits.back()) < 0) commits.pop_back();
  }
  return commits;
}

}  // namespace

int64_t newest_saved_step(const std::string& folder) {
  const std::vector<Commit> commits = commits_of(folder);
  return commits.empty() ? -1 : std::get<1>(*std::max_element(commits.begin(), commits.end()));
}

Result<int64_t> damage_newest_step(const std::string& folder) {
  const std::vector<Commit> commits = commits_of(folder);
  if (commits.size() < 2) {
    return Status(Code::kFailedPrecondition,
                  folder + " has " + std::to_string(commits.size()) +
                      " saved steps: at least two are needed, one to damage and one to go on from");
  }
  const auto [claim, step, name] = *std::max_element(commits.begin(), commits.end());
  const fs::path data = fs::path(folder) / "data" / name.substr(0, name.find('-'));
  const std::string writer = name.substr(name.find('-') + 1) + "-";
  std::error_code error;
  fs::path largest;
  for (const auto& entry : fs::recursive_directory_iterator(data, error)) {
    const fs::path& path = entry.path();
    if (path.extension() != ".chunks" ||
        !path.parent_path().filename().string().starts_with(writer)) {
      continue;
    }
    if (largest.empty() || fs::file_size(path, error) > fs::file_size(largest, error)) {
      largest = path;
    }
  }
  if (largest.empty()) {
    return Status(Code::kFailedPrecondition,
                  data.string() + " has no files of step " + std::to_string(step));
  }
  CONVOY_RETURN_IF_ERROR(flip_a_bit(largest));
  return step;
}

}  // namespace convoy::resilience::chaos
