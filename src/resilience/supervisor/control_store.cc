#include "src/resilience/supervisor/control_store.h"

#include <convoy/base/atomic_file.h>

#include <nlohmann/json.hpp>

#include <filesystem>
#include <fstream>
#include <iterator>

namespace convoy::resilience {
namespace {

using nlohmann::ordered_json;

ordered_json json_of(const Incident& i) {
  return {{"kind", static_cast<int>(i.fault.kind)},
          {"blocks", i.fault.blocks},
          {"fault_nodes", i.fault.nodes},
          {"step", i.fault.step},
          {"at", i.fault.at},
          {"is_one_more", i.fault.is_one_more},
          {"nodes", i.nodes},
          {"is_over", i.is_over}};
}

Incident incident_of(const nlohmann::json& json) {
  Incident i;
  i.fault.kind = static_cast<FaultKind>(json.at("kind").get<int>());
  json.at("blocks").get_to(i.fault.blocks);
  json.at("fault_nodes").get_to(i.fault.nodes);
  json.at("step").get_to(i.fault.step);
  json.at("at").get_to(i.fault.at);
  i.fault.is_one_more = json.value("is_one_more", false);  // not in files of earlier versions
  json.at("nodes").get_to(i.nodes);
  json.at("is_over").get_to(i.is_over);
  return i;
}

ordered_json json_of(const Account& a) {
  return {{"spent", a.spent()}, {"part", static_cast<int>(a.part())}, {"since", a.since()}};
}

Account account_of(const nlohmann::json& json) {
  return {json.at("spent").get<std::array<double, Account::kParts>>(),
          static_cast<Account::Part>(json.at("part").get<uint8_t>() % Account::kParts),
          json.at("since").get<double>()};
}

ordered_json json_of(const Tally& t) {
  ordered_json incidents = ordered_json::array();
  for (const auto& [key, count] : t.incidents) {
    incidents.push_back({{"kind", key.first}, {"action", key.second}, {"count", count}});
  }
  return {{"incidents", std::move(incidents)},
          {"recoveries", t.recoveries},
          {"recovery_s", t.recovery_s},
          {"steps_lost", t.steps_lost}};
}

Tally tally_of(const nlohmann::json& json) {
  Tally t;
  for (const auto& i : json.at("incidents")) {
    t.incidents[{i.at("kind"), i.at("action")}] = i.at("count");
  }
  json.at("recoveries").get_to(t.recoveries);
  json.at("recovery_s").get_to(t.recovery_s);
  json.at("steps_lost").get_to(t.steps_lost);
  return t;
}

class FileStore final : public ControlStore {
 public:
  explicit FileStore(const std::string& run_dir) : path_(run_dir + "/control/state.json") {}

  Result<ControlState> load() override {
    std::error_code error;
    std::filesystem::create_directories(std::filesystem::path(path_).parent_path(), error);
    if (error) return errno_status("making the folder of " + path_, error.value());
    if (!std::filesystem::exists(path_, error)) return ControlState{};
    std::ifstream file(path_);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    return control_state_of(text, path_);
  }

  Status save(const ControlState& state) override { return write_file(path_, text_of(state)); }

 private:
  std::string path_;
};

}  // namespace

std::unique_ptr<ControlStore> make_file_store(const std::string& run_dir) {
  return std::make_unique<FileStore>(run_dir);
}

Result<ControlState> control_state_of(const std::string& text, const std::string& where) {
  ControlState state;
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  try {
    json.at("began").get_to(state.began);
    json.at("generation").get_to(state.generation);
    json.at("incidents").get_to(state.incidents);
    json.at("is_recovering").get_to(state.is_recovering);
    state.account = account_of(json.at("account"));
    json.at("again_until").get_to(state.again_until);
    state.tally = tally_of(json.at("tally"));
    if (const auto& open = json.at("incident"); open.is_object()) {
      auto incident = incident_of_json(open.dump());
      if (!incident.ok()) return incident.status();
      state.incident = std::move(incident).value();
    }
    state.home = json.value("home", kNone);
    json.at("had_all_nodes").get_to(state.had_all_nodes);
    state.launchers = json.value("launchers", state.launchers);
    state.unwanted = json.value("unwanted", state.unwanted);
    json.at("lost_nodes").get_to(state.lost_nodes);
    json.at("quarantined").get_to(state.quarantined);
    state.quarantines = json.value("quarantines", state.quarantines);
    state.draining = json.value("draining", state.draining);
    state.mesh = json.value("mesh", "");
    state.mesh_ranks = json.value("mesh_ranks", 0);
    state.replicas = json.value("replicas", 0);
    state.ranks = json.value("ranks", state.ranks);
    state.veterans = json.value("veterans", state.veterans);
    const auto& costs = json.at("costs");
    costs.at("step").get_to(state.costs.step);
    costs.at("reconfigure").get_to(state.costs.reconfigure);
    costs.at("promote").get_to(state.costs.promote);
    costs.at("respawn").get_to(state.costs.respawn);
    costs.at("replica_load").get_to(state.costs.replica_load);
    for (const auto& i : json.at("history")) state.history.push_back(incident_of(i));
  } catch (const nlohmann::json::exception& why) {
    return Status(Code::kDataLoss, where + " is no control state: " + why.what());
  }
  return state;
}

std::string text_of(const ControlState& s) {
  ordered_json history = ordered_json::array();
  for (const Incident& i : s.history) history.push_back(json_of(i));
  ordered_json incident;  // null: none
  if (s.incident) incident = ordered_json::parse(to_json(*s.incident));
  const ordered_json json = {{"began", s.began},
                             {"generation", s.generation},
                             {"incidents", s.incidents},
                             {"is_recovering", s.is_recovering},
                             {"account", json_of(s.account)},
                             {"again_until", s.again_until},
                             {"tally", json_of(s.tally)},
                             {"incident", std::move(incident)},
                             {"home", s.home},
                             {"had_all_nodes", s.had_all_nodes},
                             {"launchers", s.launchers},
                             {"unwanted", s.unwanted},
                             {"lost_nodes", s.lost_nodes},
                             {"quarantined", s.quarantined},
                             {"quarantines", s.quarantines},
                             {"draining", s.draining},
                             {"mesh", s.mesh},
                             {"mesh_ranks", s.mesh_ranks},
                             {"replicas", s.replicas},
                             {"ranks", s.ranks},
                             {"veterans", s.veterans},
                             {"costs",
                              {{"step", s.costs.step},
                               {"reconfigure", s.costs.reconfigure},
                               {"promote", s.costs.promote},
                               {"respawn", s.costs.respawn},
                               {"replica_load", s.costs.replica_load}}},
                             {"history", std::move(history)}};
  return json.dump(1, ' ', false, ordered_json::error_handler_t::replace) + "\n";
}

}  // namespace convoy::resilience
