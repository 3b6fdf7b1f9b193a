#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

// The kernel's small files in /proc and /sys.
namespace convoy::resilience {

// The whole file without blanks at its end; nothing if it can't be read.
std::optional<std::string> read_small_file(const std::string& path);
std::optional<uint64_t> read_number(const std::string& path);
// The number behind "key" at the begin of a line: "MemAvailable:", "inactive_file".
std::optional<uint64_t> number_behind(std::string_view text, std::string_view key);
// How many "0-3,8,10-11" names; nothing if it names none or is no such list.
std::optional<uint64_t> count_of_list(std::string_view list);

// What a control group still leaves to this process, over all its ancestors.
struct GroupLimits {
  std::optional<uint64_t> memory_left{};  // bytes; nothing: no limit
  std::optional<double> cores{};          // of its CPU quota; nothing: no quota
};
// Versions 1 and 2, below `sys`/fs/cgroup.
GroupLimits read_group_limits(const std::string& proc, const std::string& sys);

}  // namespace convoy::resilience
