#pragma once

#include "src/resilience/chaos/plan.h"
#include "src/resilience/chaos/strike.h"
#include "src/resilience/incident/incident.h"
#include <convoy/mesh/mesh.h>

#include <map>
#include <string>
#include <vector>

// What must hold of a job, whatever is done to it. Pure, but for reading two files.
namespace convoy::resilience::chaos {

// A fault that was tried.
struct Done {
  int id = 1;
  Fault fault{};
  Struck struck{};
  double unix_time = 0;  // before it
  int64_t step = 0, generation = 0;
  bool was_recovering = false;
  double back_s = -1;     // until the job trained again; -1: it did not
  std::string why_not{};  // "": it happened
};

struct Invariant {
  std::string name{};
  int64_t checked = 0;
  std::vector<std::string> broken{};
};

class Invariants {
 public:
  // `text` is kept if it does not hold.
  void check(const std::string& name, bool holds, const std::string& text);
  bool all_hold() const;
  const std::vector<Invariant>& list() const { return list_; }  // in the order of first checks

 private:
  std::vector<Invariant> list_;
};

// How many steps a recovery may lose. 0 while each part of the model is on a rank that lives.
struct Promise {
  int64_t steps = 1;           // else: back to the newest snapshot
  int64_t folder_steps = 100;  // back to the newest sound step of the folder
  int64_t check_steps = 16;    // until a flipped bit is found: the job's --check-replicas
  bool is_sharded = false;     // the optimizer: no rank has another one's part
};

// Those among `done` that belong to the incident.
std::vector<const Done*> causes_of(const IncidentRecord& incident, const std::vector<Done>& done);
// Steps that it may lose.
int64_t promised(const IncidentRecord& incident, const std::vector<Done>& done, const Mesh& mesh,
                 const Promise& promise);
// survived, caused, steps_lost, damage_refused, found, culprit.
void check_incidents(const std::vector<IncidentRecord>& incidents, const std::vector<Done>& done,
                     const Mesh& mesh, const Promise& promise, Invariants* invariants);

// The incident that a flipped bit has led to; nullptr: there is none.
const IncidentRecord* found_by(const Done& flip, const std::vector<IncidentRecord>& incidents);
// The step after which replicas were seen to differ; -1: the incident is another one.
int64_t differing_step(const IncidentRecord& incident);

// What a job has written of its steps: metrics.jsonl. A step that was done again has several lines.
using Metrics = std::multimap<int64_t, std::map<std::string, double>>;
Result<Metrics> read_metrics(const std::string& path);
// Steps whose numbers a flipped bit was part of, until it was found.
struct Spoilt {
  int64_t first = 0, last = 0;
  // All went back and did them again, right. Else only the odd replica was healed, and what it had
  // done to gradients stays: all later losses are near those of the reference, no more.
  bool are_redone = false;
};
std::vector<Spoilt> spoilt_by(const std::vector<Done>& done, const Mesh& mesh,
                              const Promise& promise);
// every_step, numbers, sample_order: the same as the reference's, to `tolerance` of each value.
void check_metrics(const Metrics& metrics, const Metrics& reference, double tolerance,
                   const std::vector<Spoilt>& spoilt, Invariants* invariants);

}  // namespace convoy::resilience::chaos
