#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// Durations, sizes and lists as people write them.
namespace convoy {

// "90", "90s", "1.5m", "2h" or "250ms"; a bare number is seconds. Negative, infinite or unknown
// units: kInvalidArgument that names `what`.
Result<Nanos> parse_duration(std::string_view what, std::string_view text);
// "250 ms", "1.5 s", "3 min 20 s", "2 h 5 min".
std::string format_duration(Nanos duration);

inline double to_seconds(Nanos duration) {
  return std::chrono::duration<double>(duration).count();
}
// By the system's clock.
inline double seconds_since(TimePoint begin) {
  return to_seconds(Clock::system().now() - begin);
}

// "4096", "512MiB", "1.5 GiB": B, KiB, MiB, GiB, TiB; a bare number is bytes. Negative, above 2^62
// or another unit: kInvalidArgument that names `what`.
Result<uint64_t> parse_bytes(std::string_view what, std::string_view text);
// "4096 B", "64 KiB", "1.5 GiB".
std::string format_bytes(uint64_t bytes);

// "3", "1 and 5", "1, 2 and 5".
std::string enumerate(const std::vector<std::string>& parts);
// "rank 3", "ranks 1, 2 and 5".
std::string names(const char* what, const std::vector<int>& numbers);

}  // namespace convoy
