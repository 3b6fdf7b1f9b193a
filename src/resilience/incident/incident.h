#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <string>
#include <utility>
#include <vector>

// What is written down of a fault and what was done about it: one JSON line in the run folder's
// incidents.jsonl, once it is over. docs/recovery.md lists the fields.
namespace convoy::resilience {

// Something that happened, in seconds after the fault was seen.
struct Event {
  double at = 0;
  std::string text{};
};

struct IncidentRecord {
  int id = 1;
  std::string job{};
  double unix_time = 0;  // when it was seen
  std::string kind{};    // name_of(FaultKind)
  std::string what{};    // "rank 3 (pid 4711) died: SIGKILL"
  std::vector<int> ranks{};
  std::vector<std::string> nodes{};
  int64_t generation = 0;       // that the fault has ended
  int64_t next_generation = 0;  // that went on
  int64_t step = 0;             // done before the fault
  int64_t resumed = 0;          // training went on behind this one
  std::string action{};         // name_of(Action)
  std::string reason{};
  int faults = 1;  // those that came while it was being recovered from, too
  int processes_kept = 0, processes_started = 0, spares_used = 0;
  // Seconds after it was seen; -1: did not come to that.
  double decided = -1, ready = -1, first_step = -1;
  bool survived = false;
  std::vector<Event> events{};

  int64_t steps_lost() const { return step - resumed; }
};

std::string to_json(const IncidentRecord& record);
// kDataLoss: it is no such line.
Result<IncidentRecord> incident_of_json(const std::string& line);

// Those of a run folder, oldest first. A torn last line is left out. kNotFound: no such file.
Result<std::vector<IncidentRecord>> read_incidents(const std::string& run_dir);
// Appends; on disk when it returns.
Status append_incident(const std::string& run_dir, const IncidentRecord& record);

// For people, ten lines or so.
std::string story(const IncidentRecord& record);
// One line: "rank 3 died: SIGKILL; back in 0.41 s, 0 steps lost".
std::string headline(const IncidentRecord& record);

}  // namespace convoy::resilience
