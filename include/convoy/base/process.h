#pragma once

#include <string>
#include <sys/types.h>

// What the system says of processes.
namespace convoy {

// "SIGSEGV" for 11.
std::string signal_name(int signal);
// Of what waitpid gives: the exit code, or 128 + the signal that ended it.
int exit_code_of_wait(int wait_status);
// Whether the process is halted, by SIGSTOP or by a debugger.
bool is_halted(pid_t pid);

}  // namespace convoy
