#pragma once

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

namespace convoy::runtime {

// One line of the picture: (step, loss) points in the order of the steps. Points that are not
// finite are left out.
struct Curve {
  std::string label;  // "training", "validation"
  std::vector<std::pair<int64_t, double>> points;
  bool behind = false;  // broad and pale, for a curve to compare with
};

// The curves as one self-contained SVG (720 × 405), readable on light and dark pages. A curve of
// more than 300 points is also drawn smoothed (a centred mean over 2 % of its points), its raw
// points pale behind it. `marks`: steps at which something happened, and what. Pure.
std::string loss_curve_svg(const std::string& title, const std::vector<Curve>& curves,
                           const std::vector<std::pair<int64_t, std::string>>& marks = {});

}  // namespace convoy::runtime
