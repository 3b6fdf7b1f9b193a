#pragma once

#include "src/resilience/incident/incident.h"
#include <convoy/base/status.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <sys/types.h>
#include <vector>

// A running job as it is seen from outside: by its supervisor's word, and by the process table.
namespace convoy::resilience::chaos {

struct Seat {
  int rank = 0;
  pid_t pid = 0;
  int64_t step = 0;
  bool waiting = false, halted = false, is_new = false;
};

struct Sight {
  std::string job{};
  std::string mesh{};
  std::string phase{};
  int64_t generation = 0;
  int64_t step = 0;  // the newest of any rank
  double step_s = 0, hang_limit_s = 0;
  double elapsed_s = 0, lost_s = 0;
  int incidents = 0;
  bool is_recovering = false;
  std::vector<Event> events{};  // of the incident that it recovers from
  std::vector<Seat> seats{};
  int spares = 0;

  int ranks() const;  // that the mesh has
  const Seat* of_rank(int rank) const;
  int64_t least_step() const;
};
Result<Sight> sight_of_json(const std::string& text);
// By the supervisor's answer; fails as ask() does.
Result<Sight> look(const std::string& run_dir);

// A process, which a number alone does not name for ever.
struct ProcessId {
  pid_t pid = 0;
  uint64_t started = 0;                                // ticks since boot
  auto operator<=>(const ProcessId&) const = default;  // NOLINT(modernize-use-nullptr)
};
bool is_alive(const ProcessId& process);  // a zombie is not

// The job's processes that have no rank, and all that it has.
struct Household {
  pid_t launcher = 0, guardian = 0;
  pid_t supervisor = 0, agent = 0, tracer = 0;  // 0: there is none
  std::vector<pid_t> spares{};
  std::map<pid_t, ProcessId> all{};  // launcher and guardian, and all below them
};
// The launcher of a rank's process; 0: it is not there, or `convoy run` did not start it.
pid_t launcher_of(pid_t rank);
// `ranks`: processes that have a rank, so that the others are spares.
Household find_household(pid_t launcher, const std::set<pid_t>& ranks);
ProcessId identify(pid_t pid);

}  // namespace convoy::resilience::chaos
