#include <convoy/base/process.h>

#include <cctype>
#include <cstring>
#include <fstream>
#include <sys/wait.h>

namespace convoy {

std::string signal_name(int signal) {
  const char* name = ::sigabbrev_np(signal);
  return name == nullptr ? "signal " + std::to_string(signal) : std::string("SIG") + name;
}

int exit_code_of_wait(int wait_status) {
  return WIFEXITED(wait_status) ? WEXITSTATUS(wait_status) : 128 + WTERMSIG(wait_status);
}

bool is_halted(pid_t pid) {
  std::ifstream file("/proc/" + std::to_string(pid) + "/stat");
  std::string stat;
  std::getline(file, stat);
  // The state follows the name, which may hold any character.
  const size_t name_end = stat.rfind(") ");
  return name_end != std::string::npos && std::tolower(stat[name_end + 2]) == 't';
}

}  // namespace convoy
