// Reads /proc, /sys and the control groups. What is missing or strange is nothing, never an error:
// containers hide much of it.
#include "src/resilience/doctor/kernel_files.h"

#include <convoy/base/config.h>
#include <convoy/base/fd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <charconv>
#include <fcntl.h>
#include <unistd.h>
#include <vector>

namespace convoy::resilience {
namespace {

// Version 1 says "unlimited" with a number close to 2^63.
constexpr uint64_t kUnlimited = 1ULL << 60;
constexpr size_t kFileMax = 1UL << 20;

std::optional<uint64_t> to_number(std::string_view text) {
  uint64_t number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  if (error != std::errc() || end == text.data()) return std::nullopt;
  return number;
}

template <class T>
void take_least(std::optional<T>& least, T value) {
  least = least ? std::min(*least, value) : value;
}

struct GroupFiles {
  const char* limit;
  const char* usage;
  const char* reclaimable;  // in memory.stat: cache that gives way
};
constexpr GroupFiles kVersion1{"memory.limit_in_bytes", "memory.usage_in_bytes",
                               "total_inactive_file"};
constexpr GroupFiles kVersion2{"memory.max", "memory.current", "inactive_file"};

void read_memory(const std::string& folder, const GroupFiles& files, GroupLimits& limits) {
  const auto limit = read_number(folder + "/" + files.limit);
  const auto usage = read_number(folder + "/" + files.usage);
  if (!limit || !usage || *limit >= kUnlimited) return;
  const std::string stat = read_small_file(folder + "/memory.stat").value_or("");
  const uint64_t cache = number_behind(stat, files.reclaimable).value_or(0);
  const uint64_t used = *usage - std::min(*usage, cache);
  take_least(limits.memory_left, *limit - std::min(*limit, used));
}

void read_quota(const std::string& folder, GroupLimits& limits) {
  std::optional<uint64_t> quota, period;
  if (const auto both = read_small_file(folder + "/cpu.max")) {  // version 2: "200000 100000"
    const std::vector<std::string> parts = split(*both, ' ');
    if (parts.size() == 2) quota = to_number(parts[0]), period = to_number(parts[1]);
  } else {
    quota = read_number(folder + "/cpu.cfs_quota_us");  // version 1: -1 without one
    period = read_number(folder + "/cpu.cfs_period_us");
  }
  if (quota && period && *period > 0) {
    take_least(limits.cores, static_cast<double>(*quota) / static_cast<double>(*period));
  }
}

// Calls `read` for the folder of `group` below `root` and all folders above it. Inside a container
// the path may be the host's, and its folder not there; the root then is the container's own.
template <class Read>
void for_ancestors(const std::string& root, std::string group, const Read& read) {
  while (true) {
    read(group == "/" ? root : root + group);
    if (group.empty() || group == "/") return;
    group.resize(group.rfind('/'));
  }
}

}  // namespace

std::optional<std::string> read_small_file(const std::string& path) {
  // Not a stream: those throw when a read fails, as it does for a process that has just ended.
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  if (!fd) return std::nullopt;
  std::string text;
  while (text.size() < kFileMax) {
    std::array<char, 4096> buffer;
    const ssize_t n = ::read(fd.get(), buffer.data(), buffer.size());
    if (n < 0 && errno == EINTR) continue;
    if (n < 0) return std::nullopt;
    if (n == 0) break;
    text.append(buffer.data(), static_cast<size_t>(n));
  }
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

std::optional<uint64_t> read_number(const std::string& path) {
  const auto text = read_small_file(path);
  return text ? to_number(*text) : std::nullopt;
}

std::optional<uint64_t> number_behind(std::string_view text, std::string_view key) {
  for (const std::string& line : split(text, '\n')) {
    if (!line.starts_with(key)) continue;
    const size_t digit = line.find_first_not_of(" \t", key.size());
    if (digit != std::string::npos && digit > key.size()) {
      return to_number(std::string_view(line).substr(digit));
    }
  }
  return std::nullopt;
}

std::optional<uint64_t> count_of_list(std::string_view list) {
  uint64_t count = 0;
  for (const std::string& part : split(list, ',')) {
    const size_t dash = part.find('-');
    const auto first = to_number(part);
    const auto last = dash == std::string::npos ? first : to_number(part.substr(dash + 1));
    if (!first || !last || *last < *first) return std::nullopt;
    count += *last - *first + 1;
  }
  if (count == 0) return std::nullopt;
  return count;
}

GroupLimits read_group_limits(const std::string& proc, const std::string& sys) {
  GroupLimits limits;
  const std::string root = sys + "/fs/cgroup";
  for (const std::string& line : split(read_small_file(proc + "/self/cgroup").value_or(""), '\n')) {
    const size_t first = line.find(':'), second = line.find(':', first + 1);
    if (first == std::string::npos || second == std::string::npos) continue;
    const std::string controllers = line.substr(first + 1, second - first - 1);
    const std::string group = line.substr(second + 1);
    if (!group.starts_with("/")) continue;
    const auto has = [names = split(controllers, ',')](const char* name) {
      return std::find(names.begin(), names.end(), name) != names.end();
    };
    if (controllers.empty()) {  // version 2
      for_ancestors(root, group, [&](const std::string& folder) {
        read_memory(folder, kVersion2, limits);
        read_quota(folder, limits);
      });
    } else if (has("memory")) {
      for_ancestors(root + "/memory", group,
                    [&](const std::string& f) { read_memory(f, kVersion1, limits); });
    } else if (has("cpu")) {
      for_ancestors(root + "/cpu", group, [&](const std::string& f) { read_quota(f, limits); });
    }
  }
  return limits;
}

}  // namespace convoy::resilience
