#include "src/cli/mesh_map.h"

#include <convoy/mesh/mesh.h>

#include <algorithm>
#include <cstdlib>
#include <map>
#include <utility>
#include <vector>

namespace convoy::cli {
namespace {

constexpr size_t kColumnsMax = 160;  // characters

std::string padded(std::string text, size_t width) {
  text.resize(std::max(width, text.size()), ' ');
  return text;
}

char mark(const nlohmann::json& rank) {
  if (rank.value("halted", false)) return '!';
  if (rank.value("new", false)) return '*';
  return rank.value("waiting", false) ? '.' : ' ';
}

std::map<int, char> marks(const nlohmann::json& status) {
  std::map<int, char> marks;
  for (const auto& rank : status.value("ranks", nlohmann::json::array())) {
    marks[rank.value("rank", -1)] = mark(rank);
  }
  return marks;
}

// The mesh that the text tells the sizes of.
Result<Mesh> mesh_of(const std::string& text) {
  int ranks = 1;
  for (size_t at = text.find('='); at != std::string::npos; at = text.find('=', at + 1)) {
    const int size = std::atoi(text.c_str() + at + 1);
    if (size > 0) ranks *= size;  // order=… is none
  }
  return Mesh::parse(text, ranks);
}

}  // namespace

std::string mesh_map(const nlohmann::json& status) {
  const Result<Mesh> mesh = mesh_of(status.value("mesh", ""));
  if (!mesh.ok() || mesh->size() == 1) return "";
  const std::map<int, char> known = marks(status);
  std::vector<std::vector<std::string>> cells(
      static_cast<size_t>(mesh->size("pp")),
      std::vector<std::string>(static_cast<size_t>(mesh->size("dp"))));
  size_t width = 0;
  for (int rank = 0; rank < mesh->size(); ++rank) {
    std::string& cell = cells[static_cast<size_t>(mesh->coordinate(rank, "pp"))]
                             [static_cast<size_t>(mesh->coordinate(rank, "dp"))];
    const auto at = known.find(rank);
    cell += std::to_string(rank) + (at == known.end() ? '?' : at->second) + ' ';
    width = std::max(width, cell.size());
  }
  constexpr size_t kLabel = 10;
  width = std::max(width + 1, size_t{7});
  if (kLabel + width * cells.front().size() > kColumnsMax) return "";
  std::string text, line = padded("  mesh", kLabel);
  const auto end_line = [&] {
    line.erase(line.find_last_not_of(' ') + 1);
    text += std::exchange(line, "") + "\n";
  };
  for (size_t dp = 0; dp < cells.front().size(); ++dp) {
    line += padded("dp " + std::to_string(dp), width);
  }
  end_line();
  for (size_t pp = 0; pp < cells.size(); ++pp) {
    line = padded("    pp " + std::to_string(pp), kLabel);
    for (const std::string& cell : cells[pp]) line += padded(cell, width);
    end_line();
  }
  return text + "  . waits for others   ! halted   * new   ? has no process\n";
}

}  // namespace convoy::cli
