// What earlier jobs left behind. A rank whose launcher is gone, with whatever it had started, holds
// memory, ports and GPUs that the next job needs.
#include "src/resilience/doctor/checks.h"
#include "src/resilience/doctor/kernel_files.h"
#include <convoy/base/config.h>
#include <convoy/base/process.h>

#include <algorithm>
#include <filesystem>
#include <optional>
#include <sys/stat.h>
#include <unistd.h>

namespace convoy::resilience {
namespace {

constexpr size_t kNamed = 5;        // processes that a result lists
constexpr size_t kZombiesMax = 50;  // fewer are usual for a moment

struct Process {
  std::string pid{};
  std::string name{};
  char state = '?';
  long parent = 0;
};

std::optional<Process> read_process(const std::string& folder, const std::string& pid) {
  const auto stat = parse_process_stat(read_small_file(folder + "/stat").value_or(""));
  if (!stat) return std::nullopt;  // gone by now
  return Process{.pid = pid, .name = stat->name, .state = stat->state, .parent = stat->parent};
}

bool belongs_to_us(const std::string& folder) {
  struct stat status {};
  return ::stat(folder.c_str(), &status) == 0 && status.st_uid == ::getuid();
}

// A rank of `convoy run`. Its agents and tracers may outlive it, and end by themselves.
bool is_rank(const std::string& folder) {
  const std::vector<std::string> words =
      split(read_small_file(folder + "/cmdline").value_or(""), '\0');
  const bool is_convoy = words.size() > 1 && std::filesystem::path(words[0]).filename() == "convoy";
  if (is_convoy && (words[1] == "agent" || words[1] == "trace")) return false;
  const std::vector<std::string> variables =
      split(read_small_file(folder + "/environ").value_or(""), '\0');
  const auto has = [&variables](std::string_view key) {
    return std::any_of(variables.begin(), variables.end(),
                       [key](const std::string& v) { return v.starts_with(key); });
  };
  return has("CONVOY_JOB_ID=") && has("RANK=");
}

std::string list_of(const std::vector<Process>& processes) {
  std::string text = std::to_string(processes.size());
  for (size_t i = 0; i < std::min(kNamed, processes.size()); ++i) {
    text += (i == 0 ? ": " : ", ") + processes[i].pid + " (" + processes[i].name + ")";
  }
  return text + (processes.size() > kNamed ? ", …" : "");
}

}  // namespace

Results check_processes(const DoctorOptions& options) {
  std::vector<Process> leftover, zombies;
  std::error_code error;
  for (const auto& entry : std::filesystem::directory_iterator(options.proc, error)) {
    const std::string pid = entry.path().filename().string();
    const std::string folder = entry.path().string();
    if (pid.find_first_not_of("0123456789") != std::string::npos || !belongs_to_us(folder))
      continue;
    const std::optional<Process> process = read_process(folder, pid);
    if (!process || process->parent != 1) continue;
    if (process->state == 'Z') {
      zombies.push_back(*process);
    } else if (is_rank(folder)) {
      leftover.push_back(*process);
    }
  }
  return {judged(found("processes.leftover", list_of(leftover)), leftover.empty(), Verdict::kFail,
                 "no ranks of earlier jobs",
                 "End them by their numbers (`kill -9`); one that stays hangs in the kernel, "
                 "mostly in a driver or on a dead file server, until the node restarts."),
          judged(found("processes.zombies", list_of(zombies)), zombies.size() < kZombiesMax,
                 Verdict::kWarn, "fewer than " + std::to_string(kZombiesMax),
                 "Process 1 does not take dead processes in: start the container with an init "
                 "(docker run --init).")};
}

}  // namespace convoy::resilience
