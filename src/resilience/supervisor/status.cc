// What the supervisor answers to operators, as JSON; and what they may ask it to do.
#include "src/resilience/supervisor/supervisor.h"
#include <convoy/base/units.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <string_view>

namespace convoy::resilience {
namespace {

constexpr std::string_view kDrain = "drain ";
// As ckpt::Tier counts.
constexpr std::array kTierNames{"memory", "replicas", "folder", "store"};

}  // namespace

void Supervisor::request(int node, const proto::Request& request) {
  proto::ToNode answer;
  answer.mutable_answer()->set_id(request.id());
  const std::string& what = request.what();
  nlohmann::ordered_json text;
  if (what == "status") {
    answer.mutable_answer()->set_text(status());
    return send_(node, answer);
  }
  if (what == "metrics") {
    answer.mutable_answer()->set_text(metrics());
    return send_(node, answer);
  }
  if (what == "restart" && phase_ == Phase::kSteady && is_complete()) {
    text["done"] = true;
    open_incident("a request", {}, "an operator asked for new processes");
    event("decided: all processes anew");
    incident_->decided = 0;
    incident_->action = name_of(Action::kRestart);
    restart_all();
  } else if (what == "restart") {
    text["error"] = "the job is recovering already";
  } else if (what.starts_with(kDrain)) {
    const Status begun = drain(what.substr(kDrain.size()));
    if (begun.ok()) {
      text["done"] = true;
    } else {
      text["error"] = begun.message();
    }
  } else {
    text["error"] = "there is no request '" + what + "': status, metrics, restart, drain NODE";
  }
  answer.mutable_answer()->set_text(
      text.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace));
  send_(node, answer);
}

// As some machine's agent knows; -1: none.
int64_t Supervisor::newest_in(size_t tier) const {
  int64_t newest = -1;
  for (const auto& [node, steps] : tiers_) {
    if (is_there(node)) newest = std::max(newest, steps[tier]);
  }
  return newest;
}

std::string Supervisor::status() const {
  const char* const phases[] = {"training", "gathering", "starting", "over"};
  nlohmann::ordered_json json;
  json["job"] = options_.job;
  json["run_dir"] = options_.run_dir;
  json["mesh"] = layout_.mesh().to_string();
  json["full_mesh"] = own_mesh_.to_string();
  json["generation"] = state_.generation;
  json["phase"] = phases[static_cast<size_t>(phase_)];
  json["step"] = newest_step();
  json["step_s"] = to_seconds(watch_.median_step());
  const auto limit = watch_.limit();
  json["hang_limit_s"] = nullptr;
  if (limit) json["hang_limit_s"] = to_seconds(*limit);
  json["incidents"] = state_.incidents;
  json["elapsed_s"] = elapsed_s();
  for (size_t i = 0; i < Account::kParts; ++i) {
    const auto part = static_cast<Account::Part>(i);
    json["spent_s"][name_of(part)] = spent_s(part);
  }
  json["lost_s"] = spent_s(Account::Part::kRecovering) + spent_s(Account::Part::kAgain);
  json["goodput"] = goodput();
  nlohmann::ordered_json ranks = nlohmann::ordered_json::array();
  for (const auto& [id, w] : workers_) {
    if (w.rank == kNone) continue;
    const auto node = nodes_.find(w.node);
    ranks.push_back({{"rank", w.rank},
                     {"pid", w.pid},
                     {"node", node == nodes_.end() ? "" : node->second.name()},
                     {"step", w.vitals.step},
                     {"waiting", w.vitals.waiting},
                     {"saving", w.vitals.saving},
                     {"halted", w.vitals.halted},
                     {"new", w.is_new}});
  }
  std::sort(ranks.begin(), ranks.end(),
            [](const auto& a, const auto& b) { return a["rank"] < b["rank"]; });
  json["ranks"] = std::move(ranks);
  for (size_t tier = 0; tier < kTierNames.size(); ++tier) {
    const int64_t step = newest_in(tier);
    json["saved"][kTierNames[tier]] = nullptr;
    if (step >= 0) json["saved"][kTierNames[tier]] = step;
  }
  json["spares"] = spares();
  nlohmann::ordered_json nodes = nlohmann::ordered_json::array();
  for (int node = 0; node < options_.nodes; ++node) {
    const auto has = [&](bool is_rank) {
      return std::count_if(workers_.begin(), workers_.end(), [&](const auto& entry) {
        const Worker& w = entry.second;
        return w.node == node && w.has_joined && !w.is_condemned && (w.rank != kNone) == is_rank;
      });
    };
    nodes.push_back({{"node", node},
                     {"name", node_name(node)},
                     {"state", node_state(node)},
                     {"ranks", has(true)},
                     {"spares", has(false)}});
  }
  json["nodes"] = std::move(nodes);
  for (const Event& n : notes_) json["notes"].push_back({{"unix_time", n.at}, {"text", n.text}});
  if (incident_) {
    json["incident"] = {{"what", incident_->what},
                        {"since_s", since(seen_at_)},
                        {"doing", incident_->events.back().text}};
    for (const Event& e : incident_->events) {
      json["incident"]["events"].push_back({{"at", e.at}, {"text", e.text}});
    }
  }
  return json.dump(-1, ' ', false, nlohmann::ordered_json::error_handler_t::replace);
}

}  // namespace convoy::resilience
