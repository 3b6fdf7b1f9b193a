#pragma once

#include "src/resilience/incident/incident.h"
#include <convoy/base/status.h>
#include <convoy/resilience/policy.h>

#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

namespace convoy::resilience {

// What must outlive a supervisor. Who is there its nodes tell the next one.
struct ControlState {
  double began = 0;         // unix time of the job's first supervisor
  uint64_t generation = 0;  // the newest that was begun; its number is never used again
  int incidents = 0;        // that were begun
  Costs costs{};            // as measured so far
  History history{};
  bool is_recovering = false;  // the generation has no step yet
  double lost_s = 0;           // of all incidents: nobody trained
  bool had_all_nodes = false;  // all had come, so one that is not there is missed
  std::vector<int> lost_nodes{}, quarantined{};
  int replicas = 0;                 // of the mesh's dp at present; 0: all
  std::map<uint64_t, int> ranks{};  // of workers, if it has not all: launchers may know others
  // Workers that have trained before it: the others have neither groups nor state.
  std::set<uint64_t> veterans{};
};

// The job's control state in a file of its run folder. Each save replaces the file at once, on
// disk. One process at a time.
class ControlStore {
 public:
  explicit ControlStore(std::string run_dir) : path_(std::move(run_dir) + "/control/state.json") {}
  // A fresh state if there is no file. kDataLoss: it can't be read.
  Result<ControlState> load() const;
  Status save(const ControlState& state) const;

 private:
  std::string path_;
};

}  // namespace convoy::resilience
