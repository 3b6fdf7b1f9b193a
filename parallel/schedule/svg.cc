// Decides how a schedule looks as a picture: a Gantt chart, one row a rank. Colours come from CSS
// classes, so that one document serves light and dark pages.
#include <convoy/parallel/schedule/picture.h>
#include <convoy/parallel/schedule/validate.h>

#include <algorithm>
#include <cstdio>

namespace convoy::schedule {
namespace {

// Pixels.
constexpr double kLeft = 64;    // room for "rank 12"
constexpr double kRight = 76;   // room for "peak 12/12"
constexpr double kTop = 64;     // title and subtitle
constexpr double kBottom = 66;  // time axis and legend
constexpr double kRow = 34;
constexpr double kGap = 6;
constexpr double kForwardMin = 18;  // width of the narrowest forward, so that its number fits
constexpr double kChartMin = 520;
constexpr double kDigitWidth = 7;

constexpr int kShades = 4;  // colours a kind; chunk c takes shade c % kShades

constexpr const char* kStyle = R"(<style>
  text { font: 12px system-ui, "DejaVu Sans", sans-serif; fill: #1c2430 }
  .page { fill: #ffffff } .lane { fill: #eef1f5 } .axis { stroke: #8a94a3; stroke-width: 1 }
  .title { font-size: 15px; font-weight: 600 } .quiet { fill: #5b6675 }
  .f0 { fill: #8ab8f0 } .f1 { fill: #5f97dd } .f2 { fill: #b3d2f7 } .f3 { fill: #7aa5cf }
  .b0 { fill: #8fd19e } .b1 { fill: #5fb377 } .b2 { fill: #b9e5c2 } .b3 { fill: #7fb58c }
  .n { text-anchor: middle; font-size: 11px; fill: #10151c }
  @media (prefers-color-scheme: dark) {
    text { fill: #e6eaf0 } .page { fill: #161a20 } .lane { fill: #232932 } .quiet { fill: #a2adbb }
    .n { fill: #0d1117 }
  }
</style>
)";

std::string number(double value) {
  char text[32];
  std::snprintf(text, sizeof(text), "%.6g", value);
  return text;
}

std::string escape(const std::string& text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      default:
        out += c;
    }
  }
  return out;
}

std::string text_at(double x, double y, const std::string& css, const std::string& text) {
  return "<text x=\"" + number(x) + "\" y=\"" + number(y) + "\" class=\"" + css + "\">" +
         escape(text) + "</text>\n";
}

std::string rect(double x, double y, double width, double height, const std::string& css,
                 const std::string& tip = "") {
  std::string out = "<rect x=\"" + number(x) + "\" y=\"" + number(y) + "\" width=\"" +
                    number(width) + "\" height=\"" + number(height) + "\" class=\"" + css + "\"";
  return out + (tip.empty() ? "/>\n" : "><title>" + escape(tip) + "</title></rect>\n");
}

std::string css_of(const Action& action) {
  return (action.kind == Kind::kForward ? "f" : "b") + std::to_string(action.chunk % kShades);
}

class Drawing {
 public:
  Drawing(const Schedule& schedule, const Timeline& timeline, const Costs& costs)
      : schedule_(schedule), timeline_(timeline), costs_(costs) {
    double narrowest = timeline.makespan;
    for (const auto& spans : timeline.ranks) {
      for (const Span& span : spans) narrowest = std::min(narrowest, span.end - span.start);
    }
    // Wide enough for the numbers, but stages that are tiny next to others keep to the row.
    const double shortest = std::max(narrowest, timeline.makespan / 400);
    scale_ = std::max(kForwardMin / shortest, kChartMin / timeline.makespan);
    width_ = kLeft + timeline.makespan * scale_ + kRight;
    height_ = kTop + schedule.ranks * (kRow + kGap) + kBottom;
  }

  std::string document() const {
    const std::string w = number(width_);
    const std::string h = number(height_);
    std::string out = "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"" + w + "\" height=\"" +
                      h + "\" viewBox=\"0 0 " + w + " " + h + "\" role=\"img\">\n";
    out += kStyle;
    out += rect(0, 0, width_, height_, "page");
    out += title();
    for (int rank = 0; rank < schedule_.ranks; ++rank) out += lane(rank);
    return out + axis() + legend() + "</svg>\n";
  }

 private:
  std::string title() const {
    char quiet[160];
    std::snprintf(quiet, sizeof(quiet),
                  "bubble %.1f %% · time %s · forward %s, backward %s, message %s",
                  100 * timeline_.bubble_fraction, number(timeline_.makespan).c_str(),
                  number(costs_.forward).c_str(), number(costs_.backward).c_str(),
                  number(costs_.comm).c_str());
    const std::string chunks =
        schedule_.chunks > 1 ? ", " + std::to_string(schedule_.chunks) + " chunks a rank" : "";
    return text_at(16, 26, "title",
                   "Schedule " + schedule_.name + ": " + std::to_string(schedule_.ranks) +
                       " ranks, " + std::to_string(schedule_.microbatches) + " micro-batches" +
                       chunks) +
           text_at(16, 46, "quiet", quiet);
  }

  std::string lane(int rank) const {
    const double y = kTop + rank * (kRow + kGap);
    const double chart = timeline_.makespan * scale_;
    std::string out = text_at(16, y + kRow / 2 + 4, "quiet", "rank " + std::to_string(rank));
    out += rect(kLeft, y, chart, kRow, "lane");
    for (const Span& span : timeline_.ranks[rank]) out += block(span, y);
    return out + text_at(kLeft + chart + 8, y + kRow / 2 + 4, "quiet",
                         "peak " + std::to_string(peak_activations(schedule_, rank)) + "/" +
                             std::to_string(schedule_.max_activations[rank]));
  }

  std::string block(const Span& span, double y) const {
    const double x = kLeft + span.start * scale_;
    const double width = (span.end - span.start) * scale_;
    const std::string tip =
        describe(span.action) + ": " + number(span.start) + " to " + number(span.end);
    std::string out = rect(x + 0.5, y, std::max(0.5, width - 1), kRow, css_of(span.action), tip);
    const std::string label = std::to_string(span.action.microbatch);
    if (label.size() * kDigitWidth < width) {
      out += text_at(x + width / 2, y + kRow / 2 + 4, "n", label);
    }
    return out;
  }

  std::string axis() const {
    const double y = kTop + schedule_.ranks * (kRow + kGap) + 2;
    const double end = kLeft + timeline_.makespan * scale_;
    std::string out = "<line x1=\"" + number(kLeft) + "\" x2=\"" + number(end) + "\" y1=\"" +
                      number(y) + "\" y2=\"" + number(y) + "\" class=\"axis\"/>\n";
    out += text_at(kLeft, y + 16, "quiet", "0");
    return out + text_at(end - 60, y + 16, "quiet", "time " + number(timeline_.makespan));
  }

  std::string legend() const {
    const double y = height_ - 28;
    double x = kLeft;
    std::string out;
    for (const Kind kind : {Kind::kForward, Kind::kBackward}) {
      for (int chunk = 0; chunk < std::min(schedule_.chunks, kShades); ++chunk) {
        std::string name(kind_name(kind));
        if (schedule_.chunks > 1) name += ", chunk " + std::to_string(chunk);
        out += rect(x, y, 12, 12, css_of({kind, 0, chunk, -1}));
        out += text_at(x + 17, y + 10.5, "quiet", name);
        x += 34 + kDigitWidth * name.size();
      }
    }
    return out + text_at(x, y + 10.5, "quiet", "number: micro-batch · peak: activations/bound");
  }

  const Schedule& schedule_;
  const Timeline& timeline_;
  const Costs& costs_;
  double scale_ = 1;
  double width_ = 0;
  double height_ = 0;
};

}  // namespace

Result<std::string> to_svg(const Schedule& schedule, const Costs& costs) {
  CONVOY_ASSIGN_OR_RETURN(const Timeline timeline, simulate(schedule, costs));
  return Drawing(schedule, timeline, costs).document();
}

}  // namespace convoy::schedule
