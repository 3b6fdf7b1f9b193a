// Draws the loss curve by hand: a picture of two lines and two axes needs no plotting library.
#include <convoy/runtime/loss_curve.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdio>
#include <limits>

namespace convoy::runtime {
namespace {

constexpr double kWidth = 720, kHeight = 405;
constexpr double kLeft = 64, kRight = 24, kTop = 48, kBottom = 48;
constexpr int kTicks = 6;
constexpr size_t kSmoothFrom = 300;  // points
// Blue, orange, green: told apart with colour-blind eyes and on both backgrounds.
constexpr std::array kColours = {"#3b82d6", "#e08a1e", "#2f9e6e"};

struct Frame {
  double x_min = 0, x_max = 1, y_min = 0, y_max = 1;
  double x(double step) const {
    return kLeft + (step - x_min) / (x_max - x_min) * (kWidth - kLeft - kRight);
  }
  double y(double loss) const {
    return kTop + (y_max - loss) / (y_max - y_min) * (kHeight - kTop - kBottom);
  }
};

std::string format(const char* pattern, auto... values) {
  char text[512];
  std::snprintf(text, sizeof text, pattern, values...);
  return text;
}

std::string escaped(const std::string& text) {
  std::string out;
  for (const char c : text) {
    if (c == '<') {
      out += "&lt;";
    } else if (c == '&') {
      out += "&amp;";
    } else {
      out += c;
    }
  }
  return out;
}

// The distance between ticks: 1, 2 or 5 times a power of ten, about kTicks of them.
double tick_step(double range) {
  const double raw = range / kTicks;
  const double power = std::pow(10.0, std::floor(std::log10(raw)));
  for (const double factor : {1.0, 2.0, 5.0}) {
    if (raw <= factor * power) return factor * power;
  }
  return 10 * power;
}

Curve finite(const Curve& curve) {
  Curve out{curve.label, {}, curve.behind};
  for (const auto& point : curve.points) {
    if (std::isfinite(point.second)) out.points.push_back(point);
  }
  return out;
}

Frame frame_of(const std::vector<Curve>& curves) {
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  Frame frame{kInfinity, -kInfinity, kInfinity, -kInfinity};
  for (const Curve& curve : curves) {
    for (const auto& [step, loss] : curve.points) {
      frame.x_min = std::min(frame.x_min, static_cast<double>(step));
      frame.x_max = std::max(frame.x_max, static_cast<double>(step));
      frame.y_min = std::min(frame.y_min, loss);
      frame.y_max = std::max(frame.y_max, loss);
    }
  }
  if (frame.x_min > frame.x_max) return {};
  if (frame.x_max - frame.x_min < 1) frame.x_max = frame.x_min + 1;
  const double margin = std::max(0.05 * (frame.y_max - frame.y_min), 1e-6);
  frame.y_min -= margin;
  frame.y_max += margin;
  return frame;
}

std::string axes(const Frame& frame) {
  std::string out;
  const double y_step = tick_step(frame.y_max - frame.y_min);
  for (double v = std::ceil(frame.y_min / y_step) * y_step; v <= frame.y_max; v += y_step) {
    out += format("<line class='grid' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>", kLeft,
                  kWidth - kRight, frame.y(v), frame.y(v));
    out += format("<text x='%.1f' y='%.1f' text-anchor='end'>%.4g</text>", kLeft - 8,
                  frame.y(v) + 4, v);
  }
  const double x_step = std::max(1.0, tick_step(frame.x_max - frame.x_min));
  for (double v = std::ceil(frame.x_min / x_step) * x_step; v <= frame.x_max; v += x_step) {
    out += format("<text x='%.1f' y='%.1f' text-anchor='middle'>%.6g</text>", frame.x(v),
                  kHeight - kBottom + 18, v);
  }
  out += format("<text x='%.1f' y='%.1f' text-anchor='middle'>step</text>",
                (kLeft + kWidth - kRight) / 2, kHeight - 8);
  out += format(
      "<text transform='translate(16 %.1f) rotate(-90)' text-anchor='middle'>loss "
      "(nats per token)</text>",
      (kTop + kHeight - kBottom) / 2);
  return out;
}

std::string mark(const Frame& frame, int64_t step, const std::string& label) {
  const double x = frame.x(static_cast<double>(step));
  return format("<line class='mark' x1='%.1f' x2='%.1f' y1='%.1f' y2='%.1f'/>", x, x, kTop,
                kHeight - kBottom) +
         format("<text x='%.1f' y='%.1f'>", x + 6, kTop + 14) + escaped(label) + "</text>";
}

std::string line(const Frame& frame, const Curve& curve, const char* colour, double width,
                 double opacity) {
  std::string out = format(
      "<polyline fill='none' stroke='%s' stroke-width='%.1f' stroke-opacity='%.2f' "
      "stroke-linejoin='round' points='",
      colour, width, opacity);
  for (const auto& [step, loss] : curve.points) {
    out += format("%.1f,%.1f ", frame.x(static_cast<double>(step)), frame.y(loss));
  }
  return out + "'/>";
}

// A centred moving mean over about 2 % of the points, so that the line doesn't lag behind them.
Curve smoothed(const Curve& curve) {
  Curve out{curve.label, {}, curve.behind};
  const auto& points = curve.points;
  const size_t reach = std::max<size_t>(1, points.size() / 100);
  for (size_t i = 0; i < points.size(); ++i) {
    const size_t half = std::min({reach, i, points.size() - 1 - i});
    double sum = 0;
    for (size_t j = i - half; j <= i + half; ++j) sum += points[j].second;
    out.points.emplace_back(points[i].first, sum / static_cast<double>(2 * half + 1));
  }
  return out;
}

std::string drawn(const Frame& frame, const Curve& curve, size_t index) {
  if (curve.points.empty()) return "";
  const char* colour = kColours[index % kColours.size()];
  std::string out;
  if (curve.behind) {
    out = line(frame, curve, colour, 6.0, 0.35);
  } else if (curve.points.size() > kSmoothFrom) {
    out = line(frame, curve, colour, 1.0, 0.3) + line(frame, smoothed(curve), colour, 2.0, 1.0);
  } else {
    out = line(frame, curve, colour, 2.0, 1.0);
  }
  const double x = kLeft + 160.0 * static_cast<double>(index);
  out += format("<rect x='%.1f' y='30' width='14' height='4' rx='2' fill='%s'/>", x, colour);
  out += format("<text x='%.1f' y='36'>", x + 20) + escaped(curve.label) +
         format(" (last %.3f)</text>", curve.points.back().second);
  return out;
}

}  // namespace

std::string loss_curve_svg(const std::string& title, const std::vector<Curve>& curves,
                           const std::vector<std::pair<int64_t, std::string>>& marks) {
  std::vector<Curve> shown;
  for (const Curve& curve : curves) shown.push_back(finite(curve));
  const Frame frame = frame_of(shown);
  std::string out = format(
      "<svg xmlns='http://www.w3.org/2000/svg' viewBox='0 0 %.0f %.0f' width='%.0f' "
      "height='%.0f'>",
      kWidth, kHeight, kWidth, kHeight);
  out +=
      "<style>svg{background:#fff}text{font:12px sans-serif;fill:#444}.title{font-size:15px;"
      "fill:#111}.grid{stroke:#ddd}.mark{stroke:#888;stroke-dasharray:4 3}@media(prefers-color-scheme:dark){svg{background:#16181d}"
      "text{fill:#b8bcc4}.title{fill:#eee}.grid{stroke:#33363d}}</style>";
  out += format("<text class='title' x='%.0f' y='20'>", kLeft) + escaped(title) + "</text>";
  out += axes(frame);
  for (const auto& [step, label] : marks) out += mark(frame, step, label);
  for (const bool behind : {true, false}) {
    for (size_t i = 0; i < shown.size(); ++i) {
      if (shown[i].behind == behind) out += drawn(frame, shown[i], i);
    }
  }
  return out + "</svg>\n";
}

}  // namespace convoy::runtime
