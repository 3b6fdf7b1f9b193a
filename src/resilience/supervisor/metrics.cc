// Metrics for Prometheus. docs/recovery.md lists them.
#include "src/http/metrics.h"

#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/units.h>

#include <cstdio>

namespace convoy::resilience {
namespace {

using http::label;
using http::MetricsText;

std::string decimal(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%g", value);
  return text;
}

void add_tally(MetricsText& text, const Tally& tally) {
  text.family("convoy_job_incidents_total", "counter", "Incidents that are over.");
  for (const auto& [key, count] : tally.incidents) {
    text.sample(count, label("kind", key.first) + "," + label("action", key.second));
  }
  text.family("convoy_job_recovery_seconds", "histogram",
              "From when a fault was seen to the next step of all ranks.");
  int count = 0;
  for (size_t i = 0; i < tally.recoveries.size(); ++i) {
    count += tally.recoveries[i];
    const bool is_last = i == Tally::kLimits.size();
    text.sample(count, label("le", is_last ? "+Inf" : decimal(Tally::kLimits[i])), "_bucket");
  }
  text.sample(tally.recovery_s, "", "_sum");
  text.sample(count, "", "_count");
  text.one("convoy_job_steps_lost_total", "counter", "Steps that were done, and lost to a fault.",
           static_cast<double>(tally.steps_lost));
}

template <class Counts>
void add_states(MetricsText& text, const char* name, const char* help, const Counts& counts) {
  text.family(name, "gauge", help);
  for (const auto& [state, count] : counts) text.sample(count, label("state", state));
}

}  // namespace

std::string Supervisor::metrics() const {
  MetricsText text(options_.job);
  text.one("convoy_job_generation", "gauge", "The newest generation.",
           static_cast<double>(state_.generation));
  text.one("convoy_job_recovering", "gauge", "1: an incident is being recovered from.",
           incident_ ? 1 : 0);
  add_tally(text, state_.tally);
  // No counter: time of a hang is known to have been none of training only when it is found.
  text.family("convoy_job_seconds", "gauge",
              "Where the job's time went; the parts sum to the time since it began.");
  for (size_t i = 0; i < Account::kParts; ++i) {
    const auto part = static_cast<Account::Part>(i);
    text.sample(spent_s(part), label("part", name_of(part)));
  }
  text.one("convoy_job_goodput_ratio", "gauge", "Share of that time that was training.", goodput());
  text.one("convoy_job_step", "gauge", "The newest step that a rank has done.",
           static_cast<double>(newest_step()));
  text.one("convoy_job_step_seconds", "gauge", "Median of the last 64 steps.",
           to_seconds(watch_.median_step()));
  text.one("convoy_job_replicas", "gauge", "Data-parallel replicas at present.",
           layout_.replicas());
  text.one("convoy_job_replicas_wanted", "gauge", "Data-parallel replicas of the job's mesh.",
           own_mesh_.size("dp"));
  add_states(text, "convoy_job_ranks", "Ranks by what they do.", rank_states());
  text.one("convoy_job_spares", "gauge", "Processes that wait for a rank.", spares());
  add_states(text, "convoy_job_nodes", "Machines by state.", node_states());
  return text.take();
}

std::map<std::string, int> Supervisor::rank_states() const {
  std::map<std::string, int> counts{
      {"computing", 0}, {"waiting", 0}, {"halted", 0}, {"new", 0}, {"missing", 0}};
  for (int rank = 0; rank < layout_.ranks(); ++rank) {
    const Worker* w = of_rank(rank);
    ++counts[w == nullptr        ? "missing"
             : w->vitals.halted  ? "halted"
             : w->is_new         ? "new"
             : w->vitals.waiting ? "waiting"
                                 : "computing"];
  }
  return counts;
}

std::map<std::string, int> Supervisor::node_states() const {
  std::map<std::string, int> counts{
      {"there", 0}, {"draining", 0}, {"quarantined", 0}, {"away", 0}, {"lost", 0}};
  for (int node = 0; node < options_.nodes; ++node) ++counts[node_state(node)];
  return counts;
}

const char* Supervisor::node_state(int node) const {
  if (is_lost(node)) return "lost";
  if (is_draining(node)) return "draining";
  if (!is_there(node)) return "away";
  return state_.quarantined.contains(node) ? "quarantined" : "there";
}

}  // namespace convoy::resilience
