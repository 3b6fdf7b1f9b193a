// What has come of it, as JSON.
#include "src/resilience/chaos/session.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cmath>

namespace convoy::resilience::chaos {
namespace {

using nlohmann::ordered_json;

ordered_json json_of(const Done& d) {
  ordered_json json = ordered_json::parse(to_json(d.fault));
  json["id"] = d.id;
  json["unix_time"] = d.unix_time;
  json["step"] = d.step;
  json["generation"] = d.generation;
  json["was_recovering"] = d.was_recovering;
  ordered_json pids = ordered_json::array();
  for (const ProcessId& p : d.struck.processes) pids.push_back(p.pid);
  json["pids"] = std::move(pids);
  if (d.struck.damaged_step >= 0) json["damaged_step"] = d.struck.damaged_step;
  if (d.struck.flipped_step >= 0) json["flipped_step"] = d.struck.flipped_step;
  json["happened"] = d.why_not.empty();
  if (!d.why_not.empty()) json["why_not"] = d.why_not;
  if (d.back_s >= 0) json["back_s"] = d.back_s;
  return json;
}

std::string text_of(const ordered_json& json) {
  return json.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

}  // namespace

std::string to_json(const Done& done) {
  return text_of(json_of(done));
}

int Report::happened() const {
  return static_cast<int>(
      std::count_if(done.begin(), done.end(), [](const Done& d) { return d.why_not.empty(); }));
}

int64_t Report::steps_lost() const {
  int64_t lost = 0;
  for (const IncidentRecord& i : incidents) lost += i.survived ? i.steps_lost() : 0;
  return lost;
}

double quantile(std::vector<double> values, double q) {
  if (values.empty()) return 0;
  std::sort(values.begin(), values.end());
  const auto at = static_cast<size_t>(std::ceil(q * static_cast<double>(values.size())));
  return values[std::clamp<size_t>(at, 1, values.size()) - 1];
}

std::vector<double> times_to_next_step(const Report& report) {
  std::vector<double> times;
  for (const IncidentRecord& r : report.incidents) {
    if (r.survived) times.push_back(r.first_step);
  }
  return times;
}

std::string to_json(const Report& r) {
  ordered_json faults = ordered_json::array(), invariants = ordered_json::array();
  for (const Done& d : r.done) faults.push_back(json_of(d));
  for (const Invariant& i : r.invariants) {
    invariants.push_back({{"name", i.name},
                          {"held", i.broken.empty()},
                          {"checked", i.checked},
                          {"broken", i.broken}});
  }
  const std::vector<double> times = times_to_next_step(r);
  const ordered_json json = {{"job", r.job},
                             {"held", r.all_hold},
                             {"planned", r.planned},
                             {"happened", r.happened()},
                             {"incidents", r.incidents.size()},
                             {"steps_lost", r.steps_lost()},
                             {"next_step_s", times},
                             {"next_step_median_s", quantile(times, 0.5)},
                             {"next_step_p95_s", quantile(times, 0.95)},
                             {"elapsed_s", r.elapsed_s},
                             {"goodput", r.goodput},
                             {"job_has_ended", r.job_has_ended},
                             {"faults", std::move(faults)},
                             {"invariants", std::move(invariants)}};
  return text_of(json);
}

}  // namespace convoy::resilience::chaos
