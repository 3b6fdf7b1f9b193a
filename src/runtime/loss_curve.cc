// Draws the loss curve: scales, ticks and colours of one small chart.
#include <convoy/runtime/metrics.h>

#include <algorithm>
#include <cmath>

namespace convoy::runtime {
namespace {

constexpr double kWidth = 760;
constexpr double kHeight = 440;
constexpr double kLeft = 64;
constexpr double kRight = 24;
constexpr double kTop = 48;
constexpr double kBottom = 56;
// More points than this are not seen at this width.
constexpr size_t kPointsMax = 600;

constexpr const char* kStyle =
    "<style>"
    "svg{--ink:#1f2328;--soft:#59636e;--line:#d1d9e0;--train:#1f6feb;--valid:#bc4c00;"
    "--page:#ffffff;font:13px system-ui,sans-serif}"
    "@media(prefers-color-scheme:dark){svg{--ink:#f0f6fc;--soft:#9198a1;--line:#3d444d;"
    "--train:#58a6ff;--valid:#f0883e;--page:#0d1117}}"
    ".page{fill:var(--page)}.title{fill:var(--ink);font-size:16px;font-weight:600}"
    ".soft{fill:var(--soft)}.grid{stroke:var(--line);stroke-width:1}"
    ".train{stroke:var(--train);fill:none;stroke-width:1.6;stroke-linejoin:round}"
    ".valid{stroke:var(--valid);fill:none;stroke-width:2}.dot{fill:var(--valid)}"
    ".tt{fill:var(--train)}.vt{fill:var(--valid)}"
    "</style>\n";

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<')
      out += "&lt;";
    else if (c == '&')
      out += "&amp;";
    else
      out += c;
  }
  return out;
}

// A range of values on the chart, widened to whole ticks of 1, 2 or 5 times a power of ten.
struct Axis {
  Axis(double low, double high, int ticks) {
    const double raw = std::max(high - low, 1e-6) / ticks;
    const double power = std::pow(10.0, std::floor(std::log10(raw)));
    const double lead = raw / power;
    tick = power * (lead <= 1 ? 1 : lead <= 2 ? 2 : lead <= 5 ? 5 : 10);
    begin = std::floor(low / tick) * tick;
    end = std::max(std::ceil(high / tick) * tick, begin + tick);
  }
  double part(double value) const { return (value - begin) / (end - begin); }
  double begin, end, tick;
};

struct Chart {
  Axis x;
  Axis y;
  double px(double value) const { return kLeft + x.part(value) * (kWidth - kLeft - kRight); }
  double py(double value) const {
    return kHeight - kBottom - y.part(value) * (kHeight - kTop - kBottom);
  }
};

Chart chart_of(const std::vector<Point>& train, const std::vector<Point>& validation) {
  double high_x = 1;
  double low_y = 1e300;
  double high_y = -1e300;
  for (const auto* series : {&train, &validation}) {
    for (const Point& p : *series) {
      if (!std::isfinite(p.y)) continue;
      high_x = std::max(high_x, p.x);
      low_y = std::min(low_y, p.y);
      high_y = std::max(high_y, p.y);
    }
  }
  if (low_y > high_y) low_y = 0, high_y = 1;
  return {Axis(0, high_x, 8), Axis(low_y, high_y, 6)};
}

std::string grid(const Chart& c) {
  std::string out;
  const int rows = static_cast<int>(std::lround((c.y.end - c.y.begin) / c.y.tick));
  for (int i = 0; i <= rows; ++i) {
    const double value = c.y.begin + i * c.y.tick;
    out += format("<line class=\"grid\" x1=\"%.1f\" x2=\"%.1f\" y1=\"%.1f\" y2=\"%.1f\"/>", kLeft,
                  kWidth - kRight, c.py(value), c.py(value));
    out += format("<text class=\"soft\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"end\">%g</text>\n",
                  kLeft - 8, c.py(value) + 4, std::round(value * 1e6) / 1e6);
  }
  const int columns = static_cast<int>(std::lround((c.x.end - c.x.begin) / c.x.tick));
  for (int i = 0; i <= columns; ++i) {
    const double value = c.x.begin + i * c.x.tick;
    out += format("<text class=\"soft\" x=\"%.1f\" y=\"%.1f\" text-anchor=\"middle\">%g</text>\n",
                  c.px(value), kHeight - kBottom + 20, value);
  }
  return out;
}

std::string curve(const Chart& c, const std::vector<Point>& points, const char* style) {
  if (points.empty()) return {};
  std::string out = format("<polyline class=\"%s\" points=\"", style);
  const size_t stride = std::max<size_t>(1, points.size() / kPointsMax);
  for (size_t i = 0; i < points.size(); i += stride) {
    if (std::isfinite(points[i].y))
      out += format("%.1f,%.1f ", c.px(points[i].x), c.py(points[i].y));
  }
  if (std::isfinite(points.back().y)) {
    out += format("%.1f,%.1f", c.px(points.back().x), c.py(points.back().y));
  }
  return out + "\"/>\n";
}

}  // namespace

std::string loss_curve_svg(const std::string& title, const std::vector<Point>& train,
                           const std::vector<Point>& validation) {
  const Chart c = chart_of(train, validation);
  std::string out =
      format("<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %.0f %.0f\" role=\"img\">\n",
             kWidth, kHeight);
  out += kStyle;
  out +=
      "<title>" + escaped(title) + "</title><rect class=\"page\" width=\"100%\" height=\"100%\"/>";
  out += format("<text class=\"title\" x=\"%.0f\" y=\"26\">", kLeft) + escaped(title) + "</text>\n";
  out += grid(c);
  out += curve(c, train, "train") + curve(c, validation, "valid");
  for (const Point& p : validation) {
    if (!std::isfinite(p.y)) continue;
    out += format("<circle class=\"dot\" cx=\"%.1f\" cy=\"%.1f\" r=\"3\"/>", c.px(p.x), c.py(p.y));
  }
  const double legend = kWidth - kRight - 150;
  out += format("<text class=\"tt\" x=\"%.0f\" y=\"66\">— training loss</text>", legend);
  if (!validation.empty()) {
    out += format("<text class=\"vt\" x=\"%.0f\" y=\"86\">• validation loss</text>", legend);
  }
  out += format(
      "<text class=\"soft\" x=\"%.1f\" y=\"%.0f\" text-anchor=\"middle\">optimizer step</text>",
      (kLeft + kWidth - kRight) / 2, kHeight - 14);
  out += format(
      "<text class=\"soft\" transform=\"translate(18 %.1f) rotate(-90)\" "
      "text-anchor=\"middle\">loss (nats per token)</text>\n</svg>\n",
      (kTop + kHeight - kBottom) / 2);
  return out;
}

}  // namespace convoy::runtime
