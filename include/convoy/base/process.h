#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <sys/types.h>

// What the system says of processes.
namespace convoy {

// "SIGSEGV" for 11.
std::string signal_name(int signal);
// Of what waitpid gives: "exit code 3", "SIGSEGV".
std::string how_it_ended(int wait_status);
// The same as a number: the exit code, or 128 + the signal that ended it.
int exit_code_of_wait(int wait_status);
// What /proc/PID/stat tells (proc(5)).
struct ProcessStat {
  std::string name;  // may hold any character
  char state = '?';  // 'T', 't': halted; 'Z': a zombie
  pid_t parent = 0;
  uint64_t started = 0;  // clock ticks since the machine's start; 0: not in the text
};
// nullopt: the text is none, or of a process that has gone meanwhile.
std::optional<ProcessStat> parse_process_stat(const std::string& text);

// Whether the process is halted, by SIGSTOP or by a debugger.
bool is_halted(pid_t pid);

}  // namespace convoy
