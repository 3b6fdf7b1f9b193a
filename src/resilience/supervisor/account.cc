// Where the job's time goes, and who is told how it fares.
#include "src/resilience/supervisor/account.h"

#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/units.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <utility>

namespace convoy::resilience {
namespace {

using nlohmann::ordered_json;

}  // namespace

const char* name_of(Account::Part part) {
  switch (part) {
    case Account::Part::kStarting:
      return "starting";
    case Account::Part::kTraining:
      return "training";
    case Account::Part::kRecovering:
      return "recovering";
    case Account::Part::kAgain:
      return "again";
  }
  return "";
}

void Supervisor::enter(Account::Part part, double at) {
  state_.account.enter(part, at);
}

// Parts that end by a step.
void Supervisor::keep_account() {
  if (phase_ != Phase::kSteady || incident_) return;
  const Account::Part part = state_.account.part();
  const bool all_train = missing(&Worker::has_joined).empty() &&
                         std::all_of(workers_.begin(), workers_.end(), [](const auto& w) {
                           return w.second.rank == kNone || w.second.vitals.training;
                         });
  const bool is_over = (part == Account::Part::kStarting && all_train) ||
                       (part == Account::Part::kAgain && newest_step() >= state_.again_until);
  if (!is_over) return;
  enter(Account::Part::kTraining, unix_now());
  save();
}

// From the last step on nobody has trained, though it was seen only now.
double Supervisor::unseen_s() const {
  return to_seconds(std::max(Nanos(0), watch_.silence(clock_->now()) - watch_.median_step()));
}

double Supervisor::unix_now() const {
  return unix_at_first_ + since(created_at_);
}

// Of the job, whichever supervisors it has had.
double Supervisor::elapsed_s() const {
  return std::max(0.0, unix_now() - state_.began);
}

double Supervisor::spent_s(Account::Part part) const {
  return state_.account.of(part, unix_now());
}

double Supervisor::goodput() const {
  const double elapsed = elapsed_s();
  return elapsed > 0 ? spent_s(Account::Part::kTraining) / elapsed : 0;
}

// --- who is told ---

// Of the incident at present.
void Supervisor::notify(const char* event) {
  if (!options_.notify) return;
  const ordered_json json = {{"event", event},
                             {"job", options_.job},
                             {"unix_time", unix_now()},
                             {"generation", state_.generation},
                             {"incident", ordered_json::parse(to_json(*incident_))}};
  options_.notify(json.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
}

void Supervisor::notify_end(int code, const std::string& reason) {
  if (!options_.notify || std::exchange(end_is_told_, true)) return;
  const ordered_json json = {{"event", "end"},
                             {"job", options_.job},
                             {"unix_time", unix_now()},
                             {"generation", state_.generation},
                             {"code", code},
                             {"reason", reason},
                             {"step", newest_step()},
                             {"incidents", state_.incidents},
                             {"elapsed_s", elapsed_s()},
                             {"goodput", goodput()}};
  options_.notify(json.dump(-1, ' ', false, ordered_json::error_handler_t::replace));
}

}  // namespace convoy::resilience
