#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <cstdio>
#include <string>
#include <utility>
#include <vector>

// What a training run leaves behind and shows: metrics as JSON lines, a progress line, a picture of
// the loss. Free of torch. Only one rank of a job writes; nothing here is shared between threads.
namespace convoy::runtime {

// One optimizer step as it is recorded and shown.
struct StepRecord {
  int64_t step = 0;      // 1, 2, …
  double loss = 0;       // nats per token, the mean over the global batch
  double grad_norm = 0;  // before clipping
  double lr = 0;
  int64_t tokens = 0;  // seen since the start of the run
  double tokens_per_s = 0;
  double seconds = 0;  // since the first step began
};

struct Point {
  double x = 0;
  double y = 0;
};

// A file of JSON objects, one a line, each line flushed as it is written: a run that is killed
// keeps what it has measured.
class MetricsFile {
 public:
  // Opens `path` for appending. kNotFound and the like say which path.
  static Result<MetricsFile> open(const std::string& path);
  MetricsFile(MetricsFile&& other) noexcept : file_(std::exchange(other.file_, nullptr)) {}
  MetricsFile& operator=(MetricsFile&&) = delete;
  ~MetricsFile();

  void step(const StepRecord& record);
  void validation(int64_t step, double loss, double bits_per_byte);

 private:
  explicit MetricsFile(std::FILE* file) : file_(file) {}
  void line(const std::string& text);
  std::FILE* file_;
};

// {"a":1,"b":"x"} from parts in order; for small flat objects.
class JsonLine {
 public:
  JsonLine& add(const std::string& key, double value);
  JsonLine& add(const std::string& key, int64_t value);
  JsonLine& add(const std::string& key, const std::string& value);
  std::string str() const;

 private:
  JsonLine& raw(const std::string& key, const std::string& value);
  std::string body_;
};

// "step 120/400  loss 2.104  21.4k tokens/s  93 % of one process  0:42 left". `one_process` is the
// rate of one process in tokens/s, 0 if it wasn't measured; `seconds_left` negative if unknown.
std::string progress_text(const StepRecord& record, int64_t total_steps, double one_process,
                          double seconds_left);

// A line that is rewritten in place on a terminal and printed now and then elsewhere.
class ProgressLine {
 public:
  // `live`: the reader is a terminal (or hands carriage returns on to one).
  ProgressLine(std::FILE* out, bool live) : out_(out), live_(live) {}
  // Shows `text`; not live: only if `seconds` of this run have passed since the last shown line.
  void show(const std::string& text, double now_s);
  // Ends the rewritten line, so that other text can follow.
  void end();

 private:
  std::FILE* out_;
  bool live_;
  bool open_ = false;
  double last_s_ = -1e9;
};

// A self-contained SVG of training and validation loss over steps, with axes and a legend; readable
// on light and dark pages.
std::string loss_curve_svg(const std::string& title, const std::vector<Point>& train,
                           const std::vector<Point>& validation);

// Writes `text` to `path` through a temporary file, so that readers see all of it or nothing.
Status write_file(const std::string& path, const std::string& text);

}  // namespace convoy::runtime
