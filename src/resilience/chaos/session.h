#pragma once

#include "src/resilience/chaos/invariants.h"
#include <convoy/base/clock.h>

#include <functional>
#include <string>
#include <vector>

// `convoy chaos`: does a plan's faults to a running job, one after the other, and watches it.
namespace convoy::resilience::chaos {

struct Options {
  std::string run_dir;
  std::string checkpoints{};  // folder that may be damaged; "": none
  std::string link{};         // network device that may be cut; "": none
  std::string reference{};    // metrics.jsonl of an undisturbed run; "": numbers aren't compared
  double tolerance = 0;       // of numbers
  double deadline_s = 0;      // for a step of all ranks; 0: from the job's own hang limit
  int64_t before_step = INT64_MAX;  // no fault comes later
  Promise promise{};
  bool stays = false;  // until the job ends
  std::function<void(const std::string&)> say = [](const std::string&) {};
};

struct Report {
  std::string job{};
  std::vector<Done> done{};
  std::vector<IncidentRecord> incidents{};
  std::vector<Invariant> invariants{};
  bool all_hold = true;
  bool job_has_ended = false;
  int planned = 0;
  double elapsed_s = 0;  // since we came
  double goodput = 1;    // of that time

  int happened() const;
  int64_t steps_lost() const;  // of the incidents that were survived
};
std::string to_json(const Report& report);
// A line of chaos.jsonl.
std::string to_json(const Done& done);
// 0 of none.
double quantile(std::vector<double> values, double q);
// first_step_s of all incidents that were survived.
std::vector<double> times_to_next_step(const Report& report);

class Session {
 public:
  // Waits until the job trains, for a minute at most. Fails as ask() does.
  static Result<Session> attach(Options options);
  Target target() const;
  // Blocks until all is done and seen. Writes RUN_DIR/chaos.jsonl, a line a fault.
  Report run(const std::vector<Fault>& plan);

 private:
  explicit Session(Options options) : options_(std::move(options)) {}

  bool observe();  // looks once; false: the job has ended, or an invariant says that it is over
  void meet_household();
  void check_progress();
  double deadline_s() const;
  std::string who_is_missing() const;
  bool await_turn(const Fault& fault);
  void inject(const Fault& fault);
  void hold(const Fault& fault);
  bool is_settled() const;
  void settle(size_t first);
  void await_found(const Done& flip);
  void await_culprit(const Done& flip);
  void await_saves();
  void check_bystanders(const std::vector<Seat>& before, size_t first);
  void write(const Done& done) const;
  void await_end();
  void check_nothing_left();
  Report report(int planned);

  Options options_;
  Invariants invariants_{};
  Sight sight_{};
  Household home_{};
  std::set<ProcessId> seen_{};  // all processes that the job ever had
  ProcessId launcher_{};
  std::vector<Done> done_{};
  size_t incidents_before_ = 0;
  TimePoint began_{}, answered_at_{}, moved_at_{}, met_at_{}, settled_at_{};
  int64_t least_step_ = -1, generation_ = -1;
  int64_t newest_generation_ = 0;
  bool is_fresh_ = false;  // the last look was answered
  bool is_over_ = false, job_has_ended_ = false;
};

}  // namespace convoy::resilience::chaos
