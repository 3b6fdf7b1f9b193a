// The progress line of a training run. How a live line is marked (a carriage return) is what
// `convoy run` and terminals both understand.
#include <convoy/runtime/progress.h>

#include <algorithm>

namespace convoy::runtime {
namespace {

constexpr Nanos kLiveEvery = std::chrono::milliseconds(100);
constexpr Nanos kPlainEvery = std::chrono::seconds(5);
constexpr int kBarCells = 16;

std::string bar(double share) {
  const int full = std::clamp(static_cast<int>(share * kBarCells + 0.5), 0, kBarCells);
  std::string out;
  for (int i = 0; i < kBarCells; ++i) out += i < full ? "━" : "╌";
  return out;
}

}  // namespace

std::string clock_text(Nanos duration) {
  const int64_t seconds = std::chrono::duration_cast<std::chrono::seconds>(duration).count();
  if (seconds < 0) return "-";
  char text[32];
  if (seconds >= 3600) {
    std::snprintf(text, sizeof text, "%d:%02d:%02d", static_cast<int>(seconds / 3600),
                  static_cast<int>(seconds / 60 % 60), static_cast<int>(seconds % 60));
  } else {
    std::snprintf(text, sizeof text, "%d:%02d", static_cast<int>(seconds / 60),
                  static_cast<int>(seconds % 60));
  }
  return text;
}

std::string progress_line(const StepReport& report, int64_t total_steps, Nanos left,
                          bool with_bar) {
  const double share =
      static_cast<double>(report.step) / static_cast<double>(std::max<int64_t>(1, total_steps));
  char text[256];
  std::snprintf(text, sizeof text, "step %d/%d", static_cast<int>(report.step),
                static_cast<int>(total_steps));
  std::string out = text;
  if (with_bar) out += "  " + bar(share);
  std::snprintf(text, sizeof text, "  %.0f %%  loss %.4f  %.0f tokens/s", 100 * share, report.loss,
                report.tokens_per_s);
  out += text;
  if (report.one_process_share) {
    std::snprintf(text, sizeof text, " (%.0f %% of one process)", 100 * *report.one_process_share);
    out += text;
  }
  return out + "  left " + clock_text(left);
}

Progress::Progress(int64_t total_steps, bool live, std::FILE* out, const Clock& clock)
    : total_steps_(total_steps), live_(live), out_(out), clock_(clock), begin_(clock.now()) {}

Progress::~Progress() {
  if (live_ && shown_) std::fputc('\n', out_);
  std::fflush(out_);
}

void Progress::update(const StepReport& report) {
  if (first_step_ == 0) first_step_ = report.step;
  const TimePoint now = clock_.now();
  const Nanos every = live_ ? kLiveEvery : kPlainEvery;
  if (shown_ && now - *shown_ < every && report.step < total_steps_) return;
  shown_ = now;
  const int64_t done = report.step - first_step_ + 1;
  const Nanos left = (now - begin_) / std::max<int64_t>(1, done) * (total_steps_ - report.step);
  const std::string line = progress_line(report, total_steps_, left, live_);
  // The trailing blanks wipe what a longer line before left on the terminal.
  std::fprintf(out_, live_ ? "%s   \r" : "%s\n", line.c_str());
  std::fflush(out_);
}

}  // namespace convoy::runtime
