#pragma once

#include "src/resilience/doctor/checks.h"
#include <convoy/base/fd.h>

#include <deque>
#include <string>
#include <sys/types.h>

namespace convoy::resilience {

// Runs checks as child processes, so that nothing they do can hang or kill this one. One thread,
// and no others in the process, as children go on from a fork without an exec.
class Runner {
 public:
  Runner() = default;
  Runner(const Runner&) = delete;
  Runner& operator=(const Runner&) = delete;
  // Kills what still runs.
  ~Runner();

  // Begins a check; its deadline counts from now. Returns its place.
  size_t start(Check check);
  // Until no check of this phase runs any more: at the latest, until their deadlines.
  void wait(Phase phase);
  // Of a check that has ended.
  const Results& results(size_t place) const { return checks_.at(place).results; }
  size_t size() const { return checks_.size(); }

 private:
  struct Started {
    Check check{};
    Deadline deadline = Deadline::never();
    pid_t pid = -1;
    UniqueFd pipe{};      // open while it runs
    std::string bytes{};  // that came through
    Results results{};
  };
  void read(Started& started);
  static void end(Started& started);
  static void give_up(Started& started);

  std::deque<Started> checks_;
};

}  // namespace convoy::resilience
