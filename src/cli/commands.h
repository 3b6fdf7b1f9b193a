#pragma once

#include <convoy/base/status.h>

#include <CLI/CLI.hpp>

#include <array>
#include <string>
#include <vector>

// The subcommands of `convoy`: one file each. A new one is a function here, a line in kCommands,
// and a file in CMakeLists.txt.
namespace convoy::cli {

// What main shares with the commands.
struct Invocation {
  std::vector<std::string> program;  // everything behind `--`
  bool has_program = false;          // there was a `--`
  int exit_code = 0;                 // set by the command that ran
};

// Adds one subcommand to `root`. Its callback does the work, prints its result to stdout, and sets
// invocation.exit_code; operating failures go through fail().
using AddCommand = void (*)(CLI::App& root, Invocation& invocation);
void add_run(CLI::App& root, Invocation& invocation);
void add_agent(CLI::App& root, Invocation& invocation);
void add_supervisor(CLI::App& root, Invocation& invocation);
void add_status(CLI::App& root, Invocation& invocation);
void add_restart(CLI::App& root, Invocation& invocation);
void add_drain(CLI::App& root, Invocation& invocation);
void add_why(CLI::App& root, Invocation& invocation);
void add_chaos(CLI::App& root, Invocation& invocation);
void add_goodput(CLI::App& root, Invocation& invocation);
void add_env(CLI::App& root, Invocation& invocation);
void add_data(CLI::App& root, Invocation& invocation);
void add_schedule(CLI::App& root, Invocation& invocation);
void add_ckpt(CLI::App& root, Invocation& invocation);
void add_trace(CLI::App& root, Invocation& invocation);
void add_doctor(CLI::App& root, Invocation& invocation);

// In the order of `convoy --help`.
inline constexpr std::array kCommands{add_run,        add_status, add_restart, add_drain,
                                      add_why,        add_chaos,  add_goodput, add_agent,
                                      add_supervisor, add_env,    add_data,    add_schedule,
                                      add_ckpt,       add_trace,  add_doctor};

// The exit code for bad options and bad input; every command uses it.
inline constexpr int kExitUsage = 64;
// Prints "convoy: " and the status's text to stderr, and returns the exit code for it: 64 bad
// input, 65 corrupt data, 66 no such file, 69 unavailable, 70 anything else.
int fail(const Status& status);

}  // namespace convoy::cli
