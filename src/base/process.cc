#include <convoy/base/process.h>

#include <cctype>
#include <cstring>
#include <fstream>
#include <sstream>
#include <sys/wait.h>

namespace convoy {

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name == nullptr ? "signal " + std::to_string(signal) : std::string("SIG") + name;
}

std::string how_it_ended(int wait_status) {
  return WIFSIGNALED(wait_status) ? signal_name(WTERMSIG(wait_status))
                                  : "exit code " + std::to_string(WEXITSTATUS(wait_status));
}

int exit_code_of_wait(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

std::optional<ProcessStat> parse_process_stat(const std::string& text) {
  // "77 (a (name)) Z 1 …": the last parenthesis ends the name.
  const size_t open = text.find('('), close = text.rfind(") ");
  if (open == std::string::npos || close == std::string::npos || close < open) return std::nullopt;
  ProcessStat stat;
  stat.name = text.substr(open + 1, close - open - 1);
  std::istringstream rest(text.substr(close + 2));
  if (!(rest >> stat.state >> stat.parent)) return std::nullopt;
  constexpr int kFieldOfStart = 22, kNextField = 5;
  std::string skipped;
  for (int field = kNextField; field < kFieldOfStart; ++field) rest >> skipped;
  if (!(rest >> stat.started)) stat.started = 0;
  return stat;
}

bool is_halted(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string text;
  std::getline(file, text);
  const auto stat = parse_process_stat(text);
  return stat && std::tolower(stat->state) == 't';
}

}  // namespace convoy
