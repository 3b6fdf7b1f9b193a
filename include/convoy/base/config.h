#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <limits>
#include <span>
#include <string>
#include <string_view>
#include <vector>

// Reading what people write: numbers, lists, and names that may be misspelt. Pure functions.
namespace convoy {

// The whole of `text` as a decimal number in [least, most]; else kInvalidArgument that names
// `what` (an option, a variable), what was given and what is allowed.
Result<int64_t> parse_integer(std::string_view what, std::string_view text,
                              int64_t least = std::numeric_limits<int64_t>::min(),
                              int64_t most = std::numeric_limits<int64_t>::max());

// The name that `name` was probably meant to be: the closest by edit distance (a swap of two
// neighbours counts as one edit), if close enough; else "".
std::string nearest_name(std::string_view name, std::span<const std::string> known);

// "a,b,c" -> {"a", "b", "c"}; the empty text has no parts.
std::vector<std::string> split(std::string_view text, char separator);

}  // namespace convoy
