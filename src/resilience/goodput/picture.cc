// A bar for each row: what is lost, by part. Colours come from CSS classes, so that one document
// serves light and dark pages.
#include "src/resilience/goodput/goodput.h"

#include <algorithm>
#include <cmath>
#include <cstdio>

namespace convoy::resilience::goodput {
namespace {

// Pixels.
constexpr double kLeft = 330, kChart = 560, kRight = 110;
constexpr double kTop = 58, kBottom = 86, kRow = 22, kBar = 15;
constexpr double kLegend = 150;  // a column of it
constexpr int kLegendColumns = 6;

constexpr const char* kStyle = R"(<style>
  text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #1c2430 }
  .page { fill: #ffffff } .axis { stroke: #cfd6df } .aim { stroke: #c0392b; stroke-dasharray: 4 3 }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #5b6675 } .right { text-anchor: end }
  .middle { text-anchor: middle }
  .p1 { fill: #b9e5c2 } .p2 { fill: #7fb58c } .p3 { fill: #f2b84b } .p4 { fill: #b3d2f7 }
  .p5 { fill: #8f7fd1 } .p6 { fill: #d08fd9 } .p7 { fill: #3f7fcf } .p8 { fill: #59b8c9 }
  .p9 { fill: #e2725b } .p10 { fill: #9aa5b1 } .p11 { fill: #6b7785 } .p12 { fill: #7a2e2e }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6eaf0 } .page { fill: #161a20 } .axis { stroke: #333b46 }
    .quiet { fill: #a2adbb }
  }
</style>
)";

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '&') {
      out += "&amp;";
    } else if (c == '<') {
      out += "&lt;";
    } else {
      out += c;
    }
  }
  return out;
}

std::string words(double x, double y, const std::string& classes, const std::string& text) {
  char at[96];
  std::snprintf(at, sizeof at, "<text x=\"%.1f\" y=\"%.1f\" class=\"", x, y);
  return at + classes + "\">" + escape(text) + "</text>\n";
}

std::string box(double x, double y, double width, double height, const std::string& classes) {
  char text[192];
  std::snprintf(text, sizeof text,
                "<rect x=\"%.2f\" y=\"%.1f\" width=\"%.2f\" height=\"%.1f\" class=\"%s\"/>\n", x, y,
                width, height, classes.c_str());
  return text;
}

std::string upright(double x, double top, double bottom, const char* classes) {
  char text[160];
  std::snprintf(text, sizeof text,
                "<line x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\" class=\"%s\"/>\n", x, x, top,
                bottom, classes);
  return text;
}

std::string percent(double share, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, 100 * share);
  return text;
}

std::string bar(const Row& row, double y, double scale) {
  std::string out = words(kLeft - 8, y + kBar - 3, "right", row.what);
  double x = kLeft;
  for (size_t part = kUseful + 1; part < kParts; ++part) {
    const double width = row.outcome.share[part] * scale;
    if (width <= 0) continue;
    out += box(x, y, width, kBar, "p" + std::to_string(part));
    x += width;
  }
  return out + words(x + 6, y + kBar - 3, "", percent(row.outcome.useful(), "%.2f %%"));
}

std::string legend(double y) {
  std::string out;
  for (int part = kUseful + 1; part < kParts; ++part) {
    const double x = 24 + kLegend * ((part - 1) % kLegendColumns);
    const double line = y + 20 * ((part - 1) / kLegendColumns);
    out += box(x, line, 11, 11, "p" + std::to_string(part)) +
           words(x + 16, line + 10, "quiet", name_of(static_cast<Part>(part)));
  }
  return out;
}

}  // namespace

std::string to_svg(const std::vector<Row>& rows, const std::string& title) {
  double most = 0.01;
  for (const Row& row : rows) most = std::max(most, 1 - row.outcome.useful());
  const double tick = most > 0.12 ? 0.05 : most > 0.03 ? 0.01 : 0.005;
  const double scale = kChart / (std::ceil(most / tick) * tick);
  const double width = kLeft + kChart + kRight;
  const double end = kTop + kRow * static_cast<double>(rows.size()), height = end + kBottom;
  char head[160];
  std::snprintf(
      head, sizeof head,
      "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" width=\"%.0f\" "
      "height=\"%.0f\">\n",
      width, height, width, height);
  std::string out = head + std::string(kStyle) + box(0, 0, width, height, "page");
  out += words(24, 24, "title", title);
  out += words(24, 42, "quiet",
               "time lost, by what it is lost to; behind the bar: effective time; dashed: 1 %");
  for (double at = 0; at * scale <= kChart + 0.5; at += tick) {
    out += upright(kLeft + at * scale, kTop - 4, end, "axis");
    out += words(kLeft + at * scale, end + 14, "quiet middle", percent(at, "%.3g %%"));
  }
  double y = kTop;
  for (const Row& row : rows) {
    out += bar(row, y, scale);
    y += kRow;
  }
  out += upright(kLeft + 0.01 * scale, kTop - 4, end, "aim");
  return out + legend(end + 34) + "</svg>\n";
}

}  // namespace convoy::resilience::goodput
