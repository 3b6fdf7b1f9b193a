#pragma once

#include <convoy/base/clock.h>

#include <cstdint>
#include <string>

namespace convoy::cli {

// Shows how far long work over bytes is, on stderr: a bar on a terminal, else a line now and then.
class Progress {
 public:
  // "prepared": what is done to the bytes, for the lines.
  explicit Progress(std::string done_word);
  ~Progress() { end(); }
  Progress(const Progress&) = delete;
  Progress& operator=(const Progress&) = delete;

  void show(uint64_t done, uint64_t total);
  // Clears the bar, so that what follows begins on an empty line.
  void end();

 private:
  std::string word_;
  bool terminal_;
  bool drawn_ = false;
  TimePoint shown_;
};

}  // namespace convoy::cli
