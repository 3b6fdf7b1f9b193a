#pragma once

#include "src/resilience/incident/incident.h"
#include "src/resilience/supervisor/account.h"
#include "src/resilience/supervisor/tally.h"
#include <convoy/base/status.h>
#include <convoy/resilience/policy.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
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
  std::optional<IncidentRecord>
      incident{};  // that is not over; the next supervisor goes on with it
  Account account{};
  int64_t again_until = 0;  // steps up to this one had been done before a fault lost them
  Tally tally{};
  int home = kNone;                     // the node of the supervisor that wrote this
  bool had_all_nodes = false;           // all had come, so one that is not there is missed
  std::map<int, uint64_t> launchers{};  // by node
  std::set<uint64_t> unwanted{};  // workers that a machine brought which came back, until they end
  std::set<int> lost_nodes{}, quarantined{};
  std::map<int, int> quarantines{};  // how often, by node
  std::set<int> draining{};          // to be freed, as soon as their ranks are elsewhere
  std::string mesh{};                // in which it goes on with fewer machines; empty: its own
  int mesh_ranks = 0;
  int replicas = 0;                 // of the mesh's dp at present; 0: all
  std::map<uint64_t, int> ranks{};  // of workers, if it has not all: launchers may know others
  // Workers that have trained before it: the others have neither groups nor state.
  std::set<uint64_t> veterans{};
};

std::string text_of(const ControlState& state);
// kDataLoss, which names `where`.
Result<ControlState> control_state_of(const std::string& text, const std::string& where);

// Where the job's control state is kept. One process at a time.
class ControlStore {
 public:
  virtual ~ControlStore() = default;
  // A fresh state if there is none. kDataLoss: it can't be read.
  virtual Result<ControlState> load() = 0;
  virtual Status save(const ControlState& state) = 0;
};

// In a file of the run folder, control/state.json. Each save replaces it at once, on disk.
std::unique_ptr<ControlStore> make_file_store(const std::string& run_dir);

}  // namespace convoy::resilience
