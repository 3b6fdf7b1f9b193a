// Numbers, lists and misspelt names.
#include <convoy/base/config.h>

#include <algorithm>
#include <charconv>

namespace convoy {
namespace {

// Optimal string alignment distance: insert, delete, replace, swap neighbours.
size_t edit_distance(std::string_view a, std::string_view b) {
  std::vector<std::vector<size_t>> d(a.size() + 1, std::vector<size_t>(b.size() + 1));
  for (size_t i = 0; i <= a.size(); ++i) d[i][0] = i;
  for (size_t j = 0; j <= b.size(); ++j) d[0][j] = j;
  for (size_t i = 1; i <= a.size(); ++i) {
    for (size_t j = 1; j <= b.size(); ++j) {
      const size_t replace = d[i - 1][j - 1] + (a[i - 1] == b[j - 1] ? 0 : 1);
      d[i][j] = std::min({d[i - 1][j] + 1, d[i][j - 1] + 1, replace});
      if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1]) {
        d[i][j] = std::min(d[i][j], d[i - 2][j - 2] + 1);
      }
    }
  }
  return d[a.size()][b.size()];
}

}  // namespace

Result<int64_t> parse_integer(std::string_view what, std::string_view text, int64_t least,
                              int64_t most) {
  int64_t value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error == std::errc() && end == text.data() + text.size() && value >= least && value <= most) {
    return value;
  }
  std::string allowed = "a whole number";
  if (least != std::numeric_limits<int64_t>::min())
    allowed += ", at least " + std::to_string(least);
  if (most != std::numeric_limits<int64_t>::max()) allowed += ", at most " + std::to_string(most);
  return Status(Code::kInvalidArgument, std::string(what) + " is '" + std::string(text) +
                                            "', but must be " + allowed + ".");
}

std::string nearest_name(std::string_view name, std::span<const std::string> known) {
  std::string best;
  // A third of the letters may be wrong; more is a guess that confuses.
  size_t best_distance = std::max<size_t>(1, name.size() / 3) + 1;
  for (const std::string& candidate : known) {
    const size_t distance = edit_distance(name, candidate);
    if (distance < best_distance) {
      best_distance = distance;
      best = candidate;
    }
  }
  return best;
}

std::vector<std::string> split(std::string_view text, char separator) {
  std::vector<std::string> parts;
  while (!text.empty()) {
    const size_t at = text.find(separator);
    parts.emplace_back(text.substr(0, at));
    if (at == std::string_view::npos) break;
    text.remove_prefix(at + 1);
    if (text.empty()) parts.emplace_back();
  }
  return parts;
}

}  // namespace convoy
