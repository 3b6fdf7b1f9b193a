// The launcher's words. Every failure message says which rank, how, where its log is, and shows the
// lines that most often hold the reason.
#include "src/launch/report.h"

#include "src/launch/process.h"

#include <nlohmann/json.hpp>

#include <algorithm>
#include <csignal>
#include <cstring>
#include <sys/wait.h>

namespace convoy::launch {
namespace {

using Json = nlohmann::ordered_json;

constexpr size_t kBarColumns = 20;

double seconds(Nanos duration) {
  // Milliseconds are enough for reading.
  return static_cast<double>(
             std::chrono::duration_cast<std::chrono::milliseconds>(duration).count()) *
         1e-3;
}

// Names may hold any bytes; a JSON line must not fail because of them.
std::string line_of(const Json& json) {
  return json.dump(-1, ' ', false, Json::error_handler_t::replace);
}

void add_end(const RankExit& exit, Json* json) {
  if (WIFSIGNALED(exit.wait_status)) {
    (*json)["signal"] = signal_name(WTERMSIG(exit.wait_status));
  } else {
    (*json)["code"] = WEXITSTATUS(exit.wait_status);
  }
}

std::string fate_of_others(const RankExit& cause, const std::vector<RankExit>& all) {
  int already = 0;
  int asked = 0;
  int killed = 0;
  for (const RankExit& exit : all) {
    if (exit.rank == cause.rank) continue;
    const bool by_kill = WIFSIGNALED(exit.wait_status) && WTERMSIG(exit.wait_status) == SIGKILL;
    ++(!exit.was_asked ? already : by_kill ? killed : asked);
  }
  std::string text;
  const auto add = [&text](int count, std::string_view what) {
    if (count == 0) return;
    text += (text.empty() ? "" : ", ") + std::to_string(count) + " " + std::string(what);
  };
  add(already, "had ended already");
  add(asked, "ended when asked");
  add(killed, "had to be killed");
  return text.empty() ? "" : "convoy: of the other ranks " + text + ".\n";
}

// What most often causes an end that no program explains by itself.
std::string hint_at(int wait_status) {
  switch (WIFSIGNALED(wait_status) ? WTERMSIG(wait_status) : 0) {
    case 0:
      // The dynamic loader's code, and a shell's for a missing program.
      return WEXITSTATUS(wait_status) != 127
                 ? ""
                 : "convoy: exit code 127 most often means that a library is missing or of another "
                   "version, "
                   "such as another torch than the program was built with; see `ldd PROGRAM` and "
                   "LD_LIBRARY_PATH.\n";
    case SIGKILL:
      return "convoy: SIGKILL did not come from Convoy; most often the kernel sends it when memory "
             "runs out (see dmesg).\n";
    case SIGBUS:
      return "convoy: the kernel sends SIGBUS when it finds no memory for a page of shared memory, "
             "or when a mapped file was shortened.\n";
    case SIGXFSZ:
      return "convoy: a file grew beyond `ulimit -f`.\n";
    default:
      return "";
  }
}

}  // namespace

bool is_success(const RankExit& exit) {
  return WIFEXITED(exit.wait_status) && WEXITSTATUS(exit.wait_status) == 0;
}

int code_of(const RankExit& exit) {
  return exit_code_of_wait(exit.wait_status);
}

std::string how(const RankExit& exit) {
  std::string text = how_it_ended(exit.wait_status);
  if (!WIFSIGNALED(exit.wait_status)) return text;
  text += std::string(" (") + ::strsignal(WTERMSIG(exit.wait_status));
  if (WCOREDUMP(exit.wait_status)) text += ", core dumped";
  return text + ")";
}

std::string failure_text(const RankExit& cause, const std::deque<std::string>& last_lines,
                         const std::vector<RankExit>& all) {
  std::string text = "convoy: rank " + std::to_string(cause.rank) + " died first: " + how(cause) +
                     ", pid " + std::to_string(cause.pid) + ". Its log: " + cause.log + "\n";
  text += hint_at(cause.wait_status);
  if (last_lines.empty()) {
    text += "convoy: it had printed nothing.\n";
  } else {
    text += "convoy: its last " +
            (last_lines.size() == 1 ? "line:\n" : std::to_string(last_lines.size()) + " lines:\n");
    for (const std::string& line : last_lines) text += "  | " + line + "\n";
  }
  for (const RankExit& exit : all) {
    if (!exit.was_halted) continue;
    text += "convoy: rank " + std::to_string(exit.rank) + " (pid " + std::to_string(exit.pid) +
            ") was halted then, by SIGSTOP or a debugger: the others may have waited for it.\n";
  }
  text += fate_of_others(cause, all);
  text.pop_back();  // the last line's end: the caller writes lines
  return text;
}

std::string start_event(const StartFacts& facts) {
  return line_of(Json{{"event", "start"},
                      {"job", facts.job_id},
                      {"run_dir", facts.run_dir},
                      {"master_addr", facts.master_addr},
                      {"master_port", facts.master_port},
                      {"world_size", facts.world_size},
                      {"mesh", facts.mesh},
                      {"ranks", facts.ranks},
                      {"pids", facts.pids}});
}

std::string exit_event(const RankExit& exit, bool is_cause) {
  Json json{{"event", "exit"}, {"rank", exit.rank}, {"pid", exit.pid}};
  add_end(exit, &json);
  json["cause"] = is_cause;
  json["asked"] = exit.was_asked;
  json["elapsed_s"] = seconds(exit.at);
  json["log"] = exit.log;
  return line_of(json);
}

std::string agent_event(const RankExit& exit) {
  Json json{{"event", "agent_exit"}, {"pid", exit.pid}};
  add_end(exit, &json);
  json["elapsed_s"] = seconds(exit.at);
  json["log"] = exit.log;
  return line_of(json);
}

std::string drain_text(const std::string& what, double part) {
  const double whole = std::clamp(part, 0.0, 1.0);
  std::string bar(kBarColumns, '.');
  std::fill_n(bar.begin(), static_cast<size_t>(whole * kBarColumns), '#');
  return "convoy: [" + bar + "] " + std::to_string(static_cast<int>(whole * 100)) +
         " %, waiting until it is written: " + what;
}

std::string end_event(int code, std::optional<int> cause, Nanos elapsed) {
  Json json{{"event", "end"}, {"code", code}};
  json["cause_rank"] = cause ? Json(*cause) : Json(nullptr);
  json["elapsed_s"] = seconds(elapsed);
  return line_of(json);
}

}  // namespace convoy::launch
