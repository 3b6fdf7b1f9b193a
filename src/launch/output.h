#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>

#include <deque>
#include <functional>
#include <string>
#include <string_view>

// The ranks' output: cut into lines, kept in files, shown without tearing.
namespace convoy::launch {

// Cuts a stream of bytes into lines. Text that ends with \n is a line; text that ends with \r is
// progress, which the next text replaces. A line of kLineBytesMax bytes is cut there.
class LineSplitter {
 public:
  using Take = std::function<void(std::string_view text, bool is_progress)>;

  void feed(std::string_view bytes, const Take& take);
  // The stream has ended: what is there is a line.
  void finish(const Take& take);

 private:
  std::string partial_;
  bool after_return_ = false;  // progress was given; should \n follow, it was a line after all
};

// One rank's log file, and its last lines in memory for the final message.
class RankLog {
 public:
  static Result<RankLog> open(const std::string& path);

  void add(std::string_view line);
  // Writes what was added; once for each batch.
  void flush();
  const std::string& path() const { return path_; }
  const std::deque<std::string>& tail() const { return tail_; }
  // The first failed write (the disk is full), or ok. Later writes are tried all the same.
  const Status& error() const { return error_; }

 private:
  std::string path_;
  UniqueFd fd_;
  std::string pending_;
  std::deque<std::string> tail_;
  Status error_;
};

inline constexpr int kNoRank = -1;

// Where people look. Whole lines only, each batch in one write; on a terminal one live progress
// line stays at the bottom.
class Terminal {
 public:
  struct Options {
    bool prefix = true;
    bool all_to_stderr = false;  // stdout is for events
  };
  explicit Terminal(const Options& options);

  // Adds a rank's line to the batch for stdout or stderr; kNoRank: one that says whose it is.
  void add(int rank, std::string_view line, bool is_error);
  // Replaces the live line. Without a terminal it becomes an ordinary line now and then.
  void progress(int rank, std::string_view text);
  void flush();
  // The launcher's own words, on stderr.
  void say(std::string_view text);
  // The same as progress: replaces the live line, or is said now and then.
  void say_progress(std::string_view text);
  // A line on stdout that is not a rank's.
  void event(std::string_view line);
  // Keeps the live line as it stands and ends it.
  void end_progress();

 private:
  struct Stream {
    int fd;
    bool is_terminal;
    bool colour;
    bool broken = false;
    std::string batch;
  };
  Stream& stream(bool is_error) { return is_error || options_.all_to_stderr ? err_ : out_; }
  std::string prefix(const Stream& stream, int rank) const;
  void write_batch(Stream& stream);
  bool show_live(std::string_view text);

  Options options_;
  Stream out_;
  Stream err_;
  std::string progress_;  // as it stands on the terminal; empty: none
  TimePoint progress_shown_{};
};

}  // namespace convoy::launch
