#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace convoy::cli {

inline constexpr size_t kLineWidth = 100;  // columns that human output keeps to

// Rows under headings, in columns as wide as they need. If a line would be too wide, the column
// `flexible` loses the middle of its texts.
class Table {
 public:
  // Headings that begin with '>' are of columns that are aligned to the right.
  Table(std::vector<std::string> headings, size_t flexible);
  void add(std::vector<std::string> row);
  // On stdout, every line after `indent` blanks.
  void print(size_t indent = 0) const;

 private:
  std::vector<bool> right_;
  std::vector<std::vector<std::string>> rows_;  // the headings first
  size_t flexible_;
};

// `text` without what could steer a terminal: names come from files.
std::string printable(std::string_view text);
// At most `width` columns, the middle left out.
std::string shortened(const std::string& text, size_t width);

}  // namespace convoy::cli
