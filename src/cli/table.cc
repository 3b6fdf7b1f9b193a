#include "src/cli/table.h"

#include <convoy/base/check.h>

#include <algorithm>
#include <cstdio>

namespace convoy::cli {
namespace {

constexpr size_t kFlexibleMin = 12;  // columns

// Characters of UTF-8, which is near enough to columns.
size_t width_of(const std::string& text) {
  return static_cast<size_t>(std::ranges::count_if(
      text, [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80; }));
}

// The first `width` characters.
std::string head(const std::string& text, size_t width) {
  size_t at = 0;
  for (size_t seen = 0; at < text.size(); ++at) {
    if ((static_cast<unsigned char>(text[at]) & 0xC0U) != 0x80 && seen++ == width) break;
  }
  return text.substr(0, at);
}

}  // namespace

Table::Table(std::vector<std::string> headings, size_t flexible) : flexible_(flexible) {
  for (std::string& heading : headings) {
    right_.push_back(heading.starts_with('>'));
    if (right_.back()) heading.erase(0, 1);
  }
  rows_.push_back(std::move(headings));
}

void Table::add(std::vector<std::string> row) {
  CONVOY_CHECK(row.size() == right_.size(), "a row needs a text for each column");
  rows_.push_back(std::move(row));
}

void Table::print(size_t indent) const {
  std::vector<size_t> widths(right_.size(), 0);
  for (const auto& row : rows_) {
    for (size_t i = 0; i < row.size(); ++i) widths[i] = std::max(widths[i], width_of(row[i]));
  }
  size_t line = indent + 2 * (widths.size() - 1);
  for (const size_t width : widths) line += width;
  if (line > kLineWidth) {
    const size_t excess = std::min(line - kLineWidth, widths[flexible_]);
    widths[flexible_] =
        std::max(std::min(kFlexibleMin, widths[flexible_]), widths[flexible_] - excess);
  }
  for (const auto& row : rows_) {
    std::string out(indent, ' ');
    for (size_t i = 0; i < row.size(); ++i) {
      const std::string text = i == flexible_ ? shortened(row[i], widths[i]) : row[i];
      const std::string blanks(widths[i] - std::min(widths[i], width_of(text)), ' ');
      out += (i == 0 ? "" : "  ") + (right_[i] ? blanks + text : text + blanks);
    }
    out.erase(out.find_last_not_of(' ') + 1);
    std::printf("%s\n", out.c_str());
  }
}

std::string printable(std::string_view text) {
  std::string out;
  for (const char c : text) {
    const auto byte = static_cast<unsigned char>(c);
    out += byte < 0x20 || byte == 0x7f ? '?' : c;
  }
  return out;
}

std::string shortened(const std::string& text, size_t width) {
  const size_t have = width_of(text);
  if (have <= width || width < 3) return text;
  const size_t front = (width - 1) / 2;
  const std::string skipped = head(text, have - (width - 1 - front));
  return head(text, front) + "…" + text.substr(skipped.size());
}

}  // namespace convoy::cli
