#pragma once

#include <convoy/base/clock.h>

#include <cstdint>
#include <cstdio>
#include <optional>
#include <string>

namespace convoy::runtime {

// What one step of training tells.
struct StepReport {
  int64_t step = 0;  // counted from 1
  double loss = 0;   // nats per token
  double tokens_per_s = 0;
  std::optional<double> one_process_share;  // tokens_per_s / the rate of one process; 1 = as fast
};

// The progress of a long run: on a terminal one line that is rewritten in place, in a log a plain
// line every few seconds and at the end. Owned and called by one thread of one rank; never blocks
// for long.
class Progress {
 public:
  // `total_steps` to go; `live` rewrites the line. `out` stays the caller's.
  Progress(int64_t total_steps, bool live, std::FILE* out = stdout,
           const Clock& clock = Clock::system());
  ~Progress();  // ends the live line
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void update(const StepReport& report);
  // The run turned out to be shorter or longer than announced.
  void set_total_steps(int64_t total_steps) { total_steps_ = total_steps; }

 private:
  int64_t total_steps_;
  const bool live_;
  std::FILE* const out_;
  const Clock& clock_;
  const TimePoint begin_;
  std::optional<TimePoint> shown_;
  int64_t first_step_ = 0;  // of this run; later than 1 after a resume
};

// "step 120/800 ━━━╌╌ 15 %  loss 2.4136  9 812 tokens/s (64 % of one process)  left 1:23". Pure.
std::string progress_line(const StepReport& report, int64_t total_steps, Nanos left, bool with_bar);

// "1:23" or "2:03:09"; "-" for less than nothing.
std::string clock_text(Nanos duration);

}  // namespace convoy::runtime
