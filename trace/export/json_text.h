#pragma once

#include <convoy/trace/event.h>

#include <charconv>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

// JSON appended to a string, for files of millions of events.
namespace convoy::trace {

inline void append_number(std::string& to, int64_t value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  to.append(digits, end.ptr);
}

inline void append_unsigned(std::string& to, uint64_t value) {
  char digits[24];
  const auto end = std::to_chars(digits, digits + sizeof digits, value);
  to.append(digits, end.ptr);
}

// ns as µs: "1234.567"
inline void append_us(std::string& to, int64_t ns) {
  if (ns < 0) {
    to.push_back('-');
    ns = -ns;
  }
  append_number(to, ns / 1000);
  const int64_t rest = ns % 1000;
  if (rest == 0) return;
  to.push_back('.');
  to.push_back(static_cast<char>('0' + rest / 100));
  to.push_back(static_cast<char>('0' + rest / 10 % 10));
  to.push_back(static_cast<char>('0' + rest % 10));
}

// In quotes. Bytes that are no UTF-8 become U+FFFD.
void append_quoted(std::string& to, std::string_view text);

// What append_quoted() makes of names that occur in every event. The registry outlives it.
class QuotedLabels {
 public:
  explicit QuotedLabels(const Registry& registry) : registry_(registry) {}
  const std::string& name(uint32_t name);
  const std::string& operation(uint32_t signature);  // label_of()
  const std::string& group(uint32_t group);          // without quotes

 private:
  const Registry& registry_;
  std::vector<std::string> names_, operations_, groups_;
};

}  // namespace convoy::trace
