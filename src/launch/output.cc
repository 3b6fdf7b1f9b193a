// Lines, log files and the terminal.
#include "src/launch/output.h"

#include <array>
#include <cerrno>
#include <cstdlib>
#include <fcntl.h>
#include <poll.h>
#include <sys/ioctl.h>
#include <unistd.h>

namespace convoy::launch {
namespace {

constexpr size_t kLineBytesMax = 1 << 20;  // longer lines are cut, so that memory stays bounded
constexpr size_t kTailLines = 10;
constexpr size_t kTailLineBytesMax = 2000;
// How often a progress line is worth an ordinary line where there is no terminal.
constexpr Nanos kProgressPause = std::chrono::seconds(10);
constexpr std::string_view kClearLine = "\r\x1b[K";
constexpr std::array<std::string_view, 6> kColours{"36", "33", "32", "35", "34", "31"};

// Writes all of it, waiting where the other side is slow; false when it is gone.
bool write_all(int fd, std::string_view text) {
  while (!text.empty()) {
    const ssize_t written = ::write(fd, text.data(), text.size());
    if (written < 0 && errno == EINTR) continue;
    if (written < 0 && errno == EAGAIN) {  // somebody made the terminal non-blocking
      pollfd ready{fd, POLLOUT, 0};
      ::poll(&ready, 1, -1);
      continue;
    }
    if (written < 0) return false;
    text.remove_prefix(static_cast<size_t>(written));
  }
  return true;
}

// At most `columns` characters of UTF-8 text.
std::string_view clipped(std::string_view text, size_t columns) {
  size_t seen = 0;
  for (size_t i = 0; i < text.size(); ++i) {
    const bool starts_character = (static_cast<unsigned char>(text[i]) & 0xC0U) != 0x80U;
    if (starts_character && ++seen > columns) return text.substr(0, i);
  }
  return text;
}

size_t columns_of(int fd) {
  winsize size{};
  return ::ioctl(fd, TIOCGWINSZ, &size) == 0 && size.ws_col > 1 ? size.ws_col - 1U : 79U;
}

}  // namespace

void LineSplitter::feed(std::string_view bytes, const Take& take) {
  for (const char c : bytes) {
    if (after_return_ && c != '\n') partial_.clear();
    if (c == '\n') {
      take(partial_, false);
      partial_.clear();
    } else if (c == '\r') {
      if (!after_return_ && !partial_.empty()) take(partial_, true);
    } else {
      partial_ += c;
      if (partial_.size() >= kLineBytesMax) {
        take(partial_, false);
        partial_.clear();
      }
    }
    after_return_ = c == '\r';
  }
}

void LineSplitter::finish(const Take& take) {
  if (!after_return_ && !partial_.empty()) take(partial_, false);
  partial_.clear();
}

Result<RankLog> RankLog::open(const std::string& path) {
  RankLog log;
  log.path_ = path;
  log.fd_.reset(::open(path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644));
  if (!log.fd_) return errno_status("opening the log file " + path, errno);
  return log;
}

void RankLog::add(std::string_view line) {
  pending_.append(line).append("\n");
  tail_.emplace_back(line.substr(0, kTailLineBytesMax));
  if (tail_.size() > kTailLines) tail_.pop_front();
}

void RankLog::flush() {
  if (!write_all(fd_.get(), pending_) && error_.ok()) error_ = errno_status(path_, errno);
  pending_.clear();
}

Terminal::Terminal(const Options& options) : options_(options) {
  const char* no_colour = std::getenv("NO_COLOR");
  const bool colour = no_colour == nullptr || *no_colour == '\0';
  const bool out = ::isatty(1) != 0;
  const bool err = ::isatty(2) != 0;
  out_ = Stream{1, out, out && colour, false, ""};
  err_ = Stream{2, err, err && colour, false, ""};
}

std::string Terminal::prefix(const Stream& stream, int rank) const {
  if (!options_.prefix || rank == kNoRank) return "";
  const std::string name = "[" + std::to_string(rank) + "]";
  if (!stream.colour) return name + " ";
  const std::string_view colour = kColours[static_cast<size_t>(rank) % kColours.size()];
  return "\x1b[" + std::string(colour) + "m" + name + "\x1b[0m ";
}

void Terminal::add(int rank, std::string_view line, bool is_error) {
  Stream& to = stream(is_error);
  to.batch.append(prefix(to, rank)).append(line).append("\n");
}

// True: there is nothing more to do, on a terminal or because the last one was shown just now.
bool Terminal::show_live(std::string_view text) {
  Stream& to = stream(false);
  if (to.is_terminal) {
    const size_t columns = columns_of(to.fd);
    progress_ = clipped(text, columns);
    flush();
    if (!to.broken) to.broken = !write_all(to.fd, std::string(kClearLine) + progress_);
    return true;
  }
  const TimePoint now = Clock::system().now();
  if (progress_shown_ != TimePoint{} && now - progress_shown_ < kProgressPause) return true;
  progress_shown_ = now;
  return false;
}

void Terminal::progress(int rank, std::string_view text) {
  if (!show_live(text)) add(rank, text, false);
}

void Terminal::say_progress(std::string_view text) {
  if (!show_live(text)) say(text);
}

void Terminal::write_batch(Stream& to) {
  if (to.batch.empty()) return;
  // The live line makes room, and stands again below what is written.
  const bool live = to.is_terminal && !progress_.empty();
  const std::string text = live ? std::string(kClearLine) + to.batch + progress_ : to.batch;
  to.batch.clear();
  if (!to.broken) to.broken = !write_all(to.fd, text);
}

void Terminal::flush() {
  write_batch(out_);
  write_batch(err_);
}

void Terminal::say(std::string_view text) {
  flush();
  err_.batch.append(text).append("\n");
  write_batch(err_);
}

void Terminal::event(std::string_view line) {
  flush();
  out_.batch.append(line).append("\n");
  write_batch(out_);
}

void Terminal::end_progress() {
  flush();
  Stream& to = stream(false);
  if (to.is_terminal && !progress_.empty() && !to.broken) write_all(to.fd, "\n");
  progress_.clear();
  progress_shown_ = {};
}

}  // namespace convoy::launch
