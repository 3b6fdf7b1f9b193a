// Durations and sizes: one number, then a unit.
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
constexpr double kBytesMax = 9.0e18;

struct Unit {
  std::string_view name;
  double scale;
};
constexpr std::array<Unit, 6> kTimes{
    {{"ms", 1e-3}, {"s", 1}, {"", 1}, {"min", 60}, {"m", 60}, {"h", 3600}}};
constexpr std::array<Unit, 11> kSizes{{{"", 1},
                                       {"B", 1},
                                       {"K", 1024},
                                       {"KiB", 1024},
                                       {"M", 1048576.0},
                                       {"MiB", 1048576.0},
                                       {"G", 1073741824.0},
                                       {"GiB", 1073741824.0},
                                       {"T", 1099511627776.0},
                                       {"TiB", 1099511627776.0},
                                       {"PiB", 1125899906842624.0}}};

template <size_t N>
Result<double> parse_scaled(std::string_view what, std::string_view text,
                            const std::array<Unit, N>& units, double most, std::string_view hint) {
  double number = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
  std::string_view name(end, static_cast<size_t>(text.data() + text.size() - end));
  while (!name.empty() && name.front() == ' ') name.remove_prefix(1);
  if (error == std::errc() && std::isfinite(number) && number >= 0) {
    for (const Unit& unit : units) {
      if (unit.name == name && number * unit.scale <= most) return number * unit.scale;
    }
  }
  return Status(Code::kInvalidArgument, std::string(what) + " is '" + std::string(text) +
                                            "', but must be " + std::string(hint) + ".");
}

std::string print(double number, std::string_view unit) {
  std::array<char, 64> text;
  std::snprintf(text.data(), text.size(), "%.3g %.*s", number, static_cast<int>(unit.size()),
                unit.data());
  return text.data();
}

}  // namespace

Result<Nanos> parse_duration(std::string_view what, std::string_view text) {
  CONVOY_ASSIGN_OR_RETURN(
      const double seconds,
      parse_scaled(what, text, kTimes, kDurationMaxSeconds, "a time such as 90, 90s, 250ms or 5m"));
  return Nanos(static_cast<int64_t>(seconds * 1e9));
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
  CONVOY_ASSIGN_OR_RETURN(const double bytes, parse_scaled(what, text, kSizes, kBytesMax,
                                                           "a size such as 4096, 64KiB or 1.5GiB"));
  return static_cast<uint64_t>(bytes);
}

std::string format_bytes(uint64_t bytes) {
  constexpr std::array<std::string_view, 6> kNames{"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
  if (bytes < 65536 && bytes % 1024 != 0) return std::to_string(bytes) + " B";
  auto number = static_cast<double>(bytes);
  size_t unit = 0;
  for (; number >= 1024 && unit + 1 < kNames.size(); ++unit) number /= 1024;
  return print(number, kNames[unit]);
}

}  // namespace convoy
