#include "src/cli/progress.h"

#include <convoy/base/units.h>

#include <algorithm>
#include <cstdio>
#include <unistd.h>

namespace convoy::cli {
namespace {

constexpr int kBarWidth = 30;  // characters
constexpr Nanos kBarEvery = std::chrono::milliseconds(100);
constexpr Nanos kLineEvery = std::chrono::seconds(5);  // where stderr is no terminal

}  // namespace

Progress::Progress(std::string done_word)
    : word_(std::move(done_word)),
      terminal_(::isatty(STDERR_FILENO) == 1),
      shown_(Clock::system().now()) {}

void Progress::show(uint64_t done, uint64_t total) {
  const TimePoint now = Clock::system().now();
  const Nanos every = terminal_ ? kBarEvery : kLineEvery;
  if (now - shown_ < every) return;
  shown_ = now;
  const double ratio = total == 0 ? 1 : static_cast<double>(done) / static_cast<double>(total);
  const double share = std::min(ratio, 1.0);
  const std::string sizes = format_bytes(done) + " of " + format_bytes(total);
  if (!terminal_) {
    std::fprintf(stderr, "convoy: %s %s (%.0f %%)\n", word_.c_str(), sizes.c_str(), 100 * share);
    return;
  }
  const int full = static_cast<int>(share * kBarWidth);
  std::fprintf(stderr, "\r[%s%s] %3.0f %%  %s  ", std::string(full, '#').c_str(),
               std::string(kBarWidth - full, '.').c_str(), 100 * share, sizes.c_str());
  drawn_ = true;
}

void Progress::end() {
  if (drawn_) std::fprintf(stderr, "\r\033[K");
  drawn_ = false;
}

}  // namespace convoy::cli
