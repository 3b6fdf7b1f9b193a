// The texts that a run writes: JSON lines and the progress line.
#include <convoy/runtime/metrics.h>

#include <cerrno>
#include <cmath>
#include <cstdlib>

namespace convoy::runtime {
namespace {

// Where the output isn't a terminal: seconds between two progress lines.
constexpr double kPlainLineSeconds = 5;

template <class... Args>
std::string format(const char* pattern, Args... args) {
  char text[256];
  std::snprintf(text, sizeof text, pattern, args...);
  return text;
}

std::string quoted(const std::string& text) {
  std::string out = "\"";
  for (const char c : text) {
    if (c == '"' || c == '\\') {
      out += '\\';
      out += c;
    } else if (static_cast<unsigned char>(c) < 0x20) {
      out += format("\\u%04x", static_cast<unsigned>(c));
    } else {
      out += c;
    }
  }
  out += '"';
  return out;
}

}  // namespace

Result<MetricsFile> MetricsFile::open(const std::string& path) {
  std::FILE* file = std::fopen(path.c_str(), "a");
  if (file == nullptr) return errno_status("can't open " + path, errno);
  return MetricsFile(file);
}

MetricsFile::~MetricsFile() {
  if (file_ != nullptr) std::fclose(file_);
}

void MetricsFile::line(const std::string& text) {
  std::fprintf(file_, "%s\n", text.c_str());
  std::fflush(file_);
}

void MetricsFile::step(const StepRecord& record) {
  line(JsonLine()
           .add("step", record.step)
           .add("loss", record.loss)
           .add("grad_norm", record.grad_norm)
           .add("lr", record.lr)
           .add("tokens", record.tokens)
           .add("tokens_per_s", record.tokens_per_s)
           .add("seconds", record.seconds)
           .str());
}

void MetricsFile::validation(int64_t step, double loss, double bits_per_byte) {
  line(JsonLine()
           .add("step", step)
           .add("validation_loss", loss)
           .add("bits_per_byte", bits_per_byte)
           .str());
}

JsonLine& JsonLine::raw(const std::string& key, const std::string& value) {
  body_ += body_.empty() ? '{' : ',';
  body_ += quoted(key);
  body_ += ':';
  body_ += value;
  return *this;
}

std::string JsonLine::str() const {
  std::string text = body_.empty() ? "{" : body_;
  return text.append("}");
}

JsonLine& JsonLine::add(const std::string& key, double value) {
  return raw(key, std::isfinite(value) ? format("%.9g", value) : "null");
}

JsonLine& JsonLine::add(const std::string& key, int64_t value) {
  return raw(key, std::to_string(value));
}

JsonLine& JsonLine::add(const std::string& key, const std::string& value) {
  return raw(key, quoted(value));
}

std::string progress_text(const StepRecord& record, int64_t total_steps, double one_process,
                          double seconds_left) {
  std::string text = "step " + std::to_string(record.step);
  if (total_steps > 0) text.append("/").append(std::to_string(total_steps));
  text += format("  loss %.4f  %.0f tokens/s", record.loss, record.tokens_per_s);
  if (one_process > 0) {
    text += format("  %.0f %% of one process", 100 * record.tokens_per_s / one_process);
  }
  if (seconds_left >= 0) {
    const auto left = static_cast<int>(std::lround(seconds_left));
    text += format("  %d:%02d left", left / 60, left % 60);
  }
  return text;
}

void ProgressLine::show(const std::string& text, double now_s) {
  if (live_) {
    // Erases what a longer line before left behind.
    std::fprintf(out_, "\r%s\x1b[K", text.c_str());
    open_ = true;
  } else {
    if (now_s - last_s_ < kPlainLineSeconds) return;
    last_s_ = now_s;
    std::fprintf(out_, "%s\n", text.c_str());
  }
  std::fflush(out_);
}

void ProgressLine::end() {
  if (open_) std::fprintf(out_, "\n");
  std::fflush(out_);
  open_ = false;
}

Status write_file(const std::string& path, const std::string& text) {
  const std::string temporary = path + ".part";
  std::FILE* file = std::fopen(temporary.c_str(), "w");
  if (file == nullptr) return errno_status("can't write " + temporary, errno);
  const bool written = std::fwrite(text.data(), 1, text.size(), file) == text.size();
  const int error = errno;
  if (std::fclose(file) != 0 || !written) {
    std::remove(temporary.c_str());
    return errno_status("can't write " + temporary, written ? errno : error);
  }
  if (std::rename(temporary.c_str(), path.c_str()) != 0) {
    return errno_status("can't rename " + temporary + " to " + path, errno);
  }
  return ok_status();
}

}  // namespace convoy::runtime
