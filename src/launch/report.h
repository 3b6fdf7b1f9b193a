#pragma once

#include <convoy/base/clock.h>
#include <convoy/launch/launcher.h>

#include <deque>
#include <optional>
#include <string>
#include <sys/types.h>
#include <vector>

// What the launcher tells: paragraphs for people, JSON lines for scripts. Pure functions.
namespace convoy::launch {

// How one rank ended.
struct RankExit {
  int rank = 0;
  pid_t pid = -1;
  int wait_status = 0;      // as waitpid gives it
  bool was_asked = false;   // after the launcher had begun to end the job
  bool was_halted = false;  // by SIGSTOP or a debugger, when the first rank died
  Nanos at{};               // since the job's start
  std::string log;
  std::string reports{};  // of a rehearsal: the folder, if not its rank's
};

// Ended with code 0.
bool is_success(const RankExit& exit);
// The rank's exit code, or 128 + its signal.
int code_of(const RankExit& exit);
// "exit code 3" or "SIGSEGV (Segmentation fault)".
std::string how(const RankExit& exit);

// Why the job ended, for people: names rank, signal or code, pid, log, and the last lines.
std::string failure_text(const RankExit& cause, const std::deque<std::string>& last_lines,
                         const std::vector<RankExit>& all);

struct StartFacts {
  std::string job_id;
  std::string run_dir;
  std::string master_addr;
  uint16_t master_port = 0;
  int world_size = 0;
  std::string mesh;
  std::vector<int> ranks;
  std::vector<pid_t> pids;
};
std::string start_event(const StartFacts& facts);
std::string exit_event(const RankExit& exit, bool is_cause);
// Of an agent that nobody had asked to end.
std::string agent_event(const RankExit& exit);
// How far the last checkpoint is: `part` 0 to 1.
std::string drain_text(const std::string& what, double part);
std::string end_event(int code, std::optional<int> cause, Nanos elapsed);

}  // namespace convoy::launch
