#pragma once

#include "src/resilience/supervisor/recent.h"
#include <convoy/base/clock.h>

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace convoy::resilience {

// What a rank last showed of its work.
struct RankVitals {
  int64_t step = 0;
  bool waiting = false;   // for other ranks
  bool training = false;  // steps follow each other
  bool halted = false;    // SIGSTOP, a debugger
  Nanos took{};           // the last step, by its own clock
  bool takes_any_mesh = false;
  bool saving = false;  // its work waits for a save, which has a deadline of its own
};

// Finds hangs: no rank has done a step for far longer than steps of this job take. Pure.
class HangWatch {
 public:
  struct Hang {
    std::vector<int> culprits;  // ranks that all others wait for; empty: all wait for each other
    Nanos silent{};             // since the last step
    Nanos limit{};
  };

  // Forgets where ranks are, not how long steps take: a generation begins.
  void begin();
  void take(TimePoint now, const std::map<int, RankVitals>& ranks);
  // At most one a generation.
  std::optional<Hang> look(TimePoint now);
  // 4 × the longest of the last 64 steps that were seen, and 2 s. No limit before the first one.
  std::optional<Nanos> limit() const;
  Nanos longest_step() const { return steps_.longest(); }
  Nanos median_step() const;
  // Since a step was seen last; 0: none was yet.
  Nanos silence(TimePoint now) const { return step_ < 0 ? Nanos(0) : now - at_; }

 private:
  std::vector<int> culprits() const;

  std::map<int, RankVitals> ranks_;
  Recent steps_;          // what they took
  int64_t step_ = -1;     // the newest of any rank
  TimePoint at_{};        // when it was seen first
  TimePoint seen_{};      // the last take()
  bool is_first_ = true;  // of a generation: it is longer, and no measure
  bool told_ = false;
};

}  // namespace convoy::resilience
