#include "src/resilience/chaos/sight.h"

#include <convoy/base/config.h>
#include <convoy/base/fd.h>
#include <convoy/base/process.h>
#include <convoy/resilience/ask.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <array>
#include <cctype>
#include <fcntl.h>
#include <filesystem>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

struct Process {
  ProcessId id{};
  pid_t parent = 0;
  char state = '?';
};

// "" of a process that ends meanwhile: reading fails then, which a stream would throw.
std::string text_of(pid_t pid, const char* file) {
  const std::string path = "/proc/" + std::to_string(pid) + "/" + file;
  const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  std::string text;
  std::array<char, 4096> part{};
  while (fd) {
    const ssize_t got = ::read(fd.get(), part.data(), part.size());
    if (got <= 0) break;
    text.append(part.data(), static_cast<size_t>(got));
  }
  return text;
}

Process read_process(pid_t pid) {
  const auto stat = parse_process_stat(text_of(pid, "stat"));
  if (!stat) return {};
  return {
      .id = {.pid = pid, .started = stat->started}, .parent = stat->parent, .state = stat->state};
}

std::map<pid_t, Process> all_processes() {
  std::map<pid_t, Process> all;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator("/proc", error)) {
    const std::string name = entry.path().filename().string();
    if (!std::all_of(name.begin(), name.end(), [](unsigned char c) { return std::isdigit(c); })) {
      continue;
    }
    const Process process = read_process(std::stoi(name));
    if (process.id.pid != 0 && process.state != 'Z') all[process.id.pid] = process;
  }
  return all;
}

// "supervisor", "agent", "trace": what a child of the launcher that is `convoy` does.
std::string command_of(pid_t pid) {
  const std::string line = text_of(pid, "cmdline");
  const size_t end = line.find('\0');
  if (end == std::string::npos) return "";
  const std::filesystem::path program(line.substr(0, end));
  return program.filename() == "convoy" ? std::string(line.c_str() + end + 1) : "";
}

bool is_standby(pid_t pid) {
  return text_of(pid, "environ").find("CONVOY_STANDBY=") != std::string::npos;
}

}  // namespace

int Sight::ranks() const {
  int64_t ranks = 1;
  for (const std::string& part : split(mesh, ',')) {
    const auto size = parse_integer("a size", part.substr(part.find('=') + 1), 1, INT32_MAX);
    if (size.ok()) ranks *= *size;  // an order= is none
  }
  return static_cast<int>(ranks);
}

const Seat* Sight::of_rank(int rank) const {
  const auto at =
      std::find_if(seats.begin(), seats.end(), [&](const Seat& s) { return s.rank == rank; });
  return at == seats.end() ? nullptr : &*at;
}

int64_t Sight::least_step() const {
  int64_t least = seats.empty() ? 0 : INT64_MAX;
  for (const Seat& seat : seats) least = std::min(least, seat.step);
  return least;
}

Result<Sight> sight_of_json(const std::string& text) {
  const auto json = nlohmann::json::parse(text, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return Status(Code::kDataLoss, "the supervisor's answer is no JSON");
  Sight s;
  try {
    s.job = json.value("job", "");
    s.mesh = json.value("mesh", "");
    s.phase = json.value("phase", "");
    s.generation = json.value("generation", int64_t{0});
    s.step = json.value("step", int64_t{0});
    s.step_s = json.value("step_s", 0.0);
    if (json.contains("hang_limit_s") && json["hang_limit_s"].is_number()) {
      s.hang_limit_s = json["hang_limit_s"];
    }
    s.elapsed_s = json.value("elapsed_s", 0.0);
    s.lost_s = json.value("lost_s", 0.0);
    s.incidents = json.value("incidents", 0);
    s.spares = json.value("spares", 0);
    s.is_recovering = json.contains("incident");
    if (s.is_recovering) {
      for (const auto& e : json["incident"].value("events", nlohmann::json::array())) {
        s.events.push_back({e.value("at", 0.0), e.value("text", "")});
      }
    }
    for (const auto& r : json.value("ranks", nlohmann::json::array())) {
      s.seats.push_back({r.value("rank", 0), r.value("pid", 0), r.value("step", int64_t{0}),
                         r.value("waiting", false), r.value("halted", false),
                         r.value("new", false)});
    }
  } catch (const nlohmann::json::exception& error) {
    return Status(Code::kDataLoss, std::string("the supervisor's answer: ") + error.what());
  }
  return s;
}

Result<Sight> look(const std::string& run_dir) {
  CONVOY_ASSIGN_OR_RETURN(const std::string answer, ask(run_dir, "status"));
  return sight_of_json(answer);
}

bool is_alive(const ProcessId& process) {
  const Process now = read_process(process.pid);
  return now.id == process && now.state != 'Z';
}

ProcessId identify(pid_t pid) {
  return read_process(pid).id;
}

pid_t launcher_of(pid_t rank) {
  const pid_t parent = read_process(rank).parent;
  return command_of(parent) == "run" ? parent : 0;
}

Household find_household(pid_t launcher, const std::set<pid_t>& ranks) {
  const auto all = all_processes();
  Household home;
  if (!all.contains(launcher)) return home;
  home.launcher = launcher;
  home.guardian = all.at(launcher).parent;
  if (command_of(home.guardian) != "run") home.guardian = launcher;
  for (const auto& [pid, process] : all) {
    pid_t up = pid;
    while (up != home.guardian && all.contains(up)) up = all.at(up).parent;
    if (up != home.guardian) continue;
    home.all[pid] = process.id;
    if (process.parent != home.launcher) continue;
    const std::string command = command_of(pid);
    if (command == "supervisor") home.supervisor = pid;
    if (command == "agent") home.agent = pid;
    if (command == "trace") home.tracer = pid;
    if (command.empty() && !ranks.contains(pid) && is_standby(pid)) home.spares.push_back(pid);
  }
  return home;
}

}  // namespace convoy::resilience::chaos
