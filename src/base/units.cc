// Durations and sizes: a number, then a unit.
#include <convoy/base/units.h>

#include <array>
#include <charconv>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <utility>

namespace convoy {
namespace {

constexpr double kDurationMaxSeconds = 3.2e8;  // ten years: anything longer is a mistake

struct Unit {
  std::string_view name;
  double seconds;
};
constexpr std::array<Unit, 6> kTimes{
    {{"ms", 1e-3}, {"s", 1}, {"", 1}, {"min", 60}, {"m", 60}, {"h", 3600}}};

constexpr std::array<std::string_view, 6> kSizes{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
constexpr double kBytesMax = 4.6e18;  // 2^62

// The number that `text` begins with, or NaN, and the unit behind it.
std::pair<double, std::string_view> split_unit(std::string_view text) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view name(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
  return {error == std::errc() ? number : std::nan(""), name};
}

std::string print(double number, std::string_view unit) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.3g %.*s", number, static_cast<int>(unit.size()),
                unit.data());
  return text.data();
}

}  // namespace

Result<Nanos> parse_duration(std::string_view what, std::string_view text) {
  const auto [number, name] = split_unit(text);
  if (std::isfinite(number) && number >= 0) {
    for (const Unit& unit : kTimes) {
      const double seconds = number * unit.seconds;
      if (unit.name == name && seconds <= kDurationMaxSeconds) {
        return Nanos(static_cast<int64_t>(seconds * 1e9));
      }
    }
  }
  return Status(Code::kInvalidArgument, std::string(what) + " is '" + std::string(text) +
                                            "', but must be a time such as 90, 90s, 250ms or 5m.");
}

std::string format_duration(Nanos duration) {
  const double seconds = static_cast<double>(duration.count()) * 1e-9;
  if (seconds < 1) return print(seconds * 1e3, "ms");
  if (seconds < 60) return print(seconds, "s");
  const auto whole = static_cast<int64_t>(std::llround(seconds));
  const bool hours = whole >= 3600;
  const int64_t big = whole / (hours ? 3600 : 60);
  const int64_t small = hours ? whole % 3600 / 60 : whole % 60;
  std::string text = std::to_string(big) + (hours ? " h" : " min");
  if (small > 0) text += " " + std::to_string(small) + (hours ? " min" : " s");
  return text;
}

Result<uint64_t> parse_bytes(std::string_view what, std::string_view text) {
  const auto [number, name] = split_unit(text);
  double factor = 1;
  for (const std::string_view unit : kSizes) {
    const bool is_named = name == unit || (name.empty() && factor == 1);
    if (is_named && number >= 0 && number * factor <= kBytesMax) {
      return static_cast<uint64_t>(number * factor);
    }
    factor *= 1024;
  }
  return Status(Code::kInvalidArgument, std::string(what) + " is '" + std::string(text) +
                                            "', but must be a size such as 4096, 512MiB or 2GiB.");
}

std::string format_bytes(uint64_t bytes) {
  if (bytes < 65536 && bytes % 1024 != 0) return std::to_string(bytes) + " B";
  auto number = static_cast<double>(bytes);
  size_t unit = 0;
  for (; number >= 1024 && unit + 1 < kSizes.size(); ++unit) number /= 1024;
  return print(number, kSizes[unit]);
}

std::string enumerate(const std::vector<std::string>& parts) {
  std::string text;
  for (size_t i = 0; i < parts.size(); ++i) {
    text += (i == 0 ? "" : i + 1 == parts.size() ? " and " : ", ") + parts[i];
  }
  return text;
}

std::string names(const char* what, const std::vector<int>& numbers) {
  std::vector<std::string> parts;
  for (const int number : numbers) parts.push_back(std::to_string(number));
  return std::string(what) + (parts.size() == 1 ? " " : "s ") + enumerate(parts);
}

}  // namespace convoy
