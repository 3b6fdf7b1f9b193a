#include "src/resilience/incident/incident.h"

#include <convoy/base/fd.h>

#include <nlohmann/json.hpp>

#include <cerrno>
#include <fcntl.h>
#include <fstream>
#include <unistd.h>

namespace convoy::resilience {
namespace {

using nlohmann::ordered_json;

std::string file_of(const std::string& run_dir) {
  return run_dir + "/incidents.jsonl";
}

}  // namespace

std::string to_json(const IncidentRecord& r) {
  ordered_json events = ordered_json::array();
  for (const Event& e : r.events) events.push_back({{"at", e.at}, {"text", e.text}});
  const ordered_json line = {{"id", r.id},
                             {"job", r.job},
                             {"unix_time", r.unix_time},
                             {"kind", r.kind},
                             {"what", r.what},
                             {"ranks", r.ranks},
                             {"nodes", r.nodes},
                             {"generation", r.generation},
                             {"next_generation", r.next_generation},
                             {"step", r.step},
                             {"resumed", r.resumed},
                             {"steps_lost", r.steps_lost()},
                             {"action", r.action},
                             {"reason", r.reason},
                             {"faults", r.faults},
                             {"processes_kept", r.processes_kept},
                             {"processes_started", r.processes_started},
                             {"spares_used", r.spares_used},
                             {"decided_s", r.decided},
                             {"ready_s", r.ready},
                             {"first_step_s", r.first_step},
                             {"survived", r.survived},
                             {"events", std::move(events)}};
  return line.dump(-1, ' ', false, ordered_json::error_handler_t::replace);
}

Result<IncidentRecord> incident_of_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Status(Code::kDataLoss, "no incident: " + text.substr(0, 80));
  IncidentRecord r;
  try {
    r.id = json.value("id", 0);
    r.job = json.value("job", "");
    r.unix_time = json.value("unix_time", 0.0);
    r.kind = json.value("kind", "");
    r.what = json.value("what", "");
    r.ranks = json.value("ranks", std::vector<int>());
    r.nodes = json.value("nodes", std::vector<std::string>());
    r.generation = json.value("generation", int64_t{0});
    r.next_generation = json.value("next_generation", int64_t{0});
    r.step = json.value("step", int64_t{0});
    r.resumed = json.value("resumed", int64_t{0});
    r.action = json.value("action", "");
    r.reason = json.value("reason", "");
    r.faults = json.value("faults", 1);
    r.processes_kept = json.value("processes_kept", 0);
    r.processes_started = json.value("processes_started", 0);
    r.spares_used = json.value("spares_used", 0);
    r.decided = json.value("decided_s", -1.0);
    r.ready = json.value("ready_s", -1.0);
    r.first_step = json.value("first_step_s", -1.0);
    r.survived = json.value("survived", false);
    for (const auto& e : json.value("events", nlohmann::json::array())) {
      r.events.push_back({e.value("at", 0.0), e.value("text", "")});
    }
  } catch (const nlohmann::json::exception& error) {
    return Status(Code::kDataLoss, std::string("no incident: ") + error.what());
  }
  return r;
}

Result<std::vector<IncidentRecord>> read_incidents(const std::string& run_dir) {
  std::ifstream file(file_of(run_dir));
  if (!file) return Status(Code::kNotFound, "there is no " + file_of(run_dir));
  std::vector<IncidentRecord> records;
  for (std::string line; std::getline(file, line);) {
    auto record = incident_of_json(line);
    if (record.ok()) records.push_back(std::move(record).value());
  }
  return records;
}

Status append_incident(const std::string& run_dir, const IncidentRecord& record) {
  const std::string path = file_of(run_dir);
  const UniqueFd file(::open(path.c_str(), O_WRONLY | O_APPEND | O_CREAT | O_CLOEXEC, 0644));
  if (!file) return errno_status("opening " + path, errno);
  const std::string line = to_json(record) + "\n";
  if (::write(file.get(), line.data(), line.size()) != static_cast<ssize_t>(line.size())) {
    return errno_status("writing " + path, errno);
  }
  return ::fdatasync(file.get()) == 0 ? ok_status() : errno_status("syncing " + path, errno);
}

}  // namespace convoy::resilience
