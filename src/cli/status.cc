// `convoy status`: how a running job is doing, as its supervisor sees it.
#include "src/cli/commands.h"
#include "src/cli/mesh_map.h"
#include "src/cli/runs.h"
#include <convoy/resilience/ask.h>

#include <nlohmann/json.hpp>

#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>
#include <unistd.h>
#include <utility>

namespace convoy::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  convoy status                 the newest run under runs/, once
  convoy status runs/demo -w    again each second, until Ctrl-C
  convoy status runs/demo --prometheus > /var/lib/node_exporter/convoy.prom
  convoy status runs/demo --json | jq '.ranks[] | {rank, pid, step}'

Exit codes: 0 told; 66 no such run folder; 69 no job runs there, or its program can't be led.)";

struct StatusArguments {
  std::string run_dir;
  bool json = false, prometheus = false;
  bool watch = false;
};

// Empty: nothing is saved yet.
std::string saved_text(const nlohmann::json& saved) {
  const std::pair<const char*, const char*> places[] = {{"memory", "in memory"},
                                                        {"replicas", "in other machines' memory"},
                                                        {"folder", "in the folder"},
                                                        {"store", "in the store"}};
  std::string text;
  for (const auto& [key, where] : places) {
    if (!saved.contains(key) || !saved[key].is_number()) continue;
    text += (text.empty() ? "  saved: step " : ", ") + std::to_string(saved[key].get<int64_t>()) +
            " " + where;
  }
  return text.empty() ? text : text + "\n";
}

std::string text_of(const nlohmann::json& s) {
  char line[256];
  std::snprintf(line, sizeof line, "job %s, mesh %s, generation %d: %s, step %d (%.3f s each)\n",
                s.value("job", "").c_str(), s.value("mesh", "").c_str(), s.value("generation", 0),
                s.value("phase", "").c_str(), s.value("step", 0), s.value("step_s", 0.0));
  std::string text = line;
  if (s.contains("incident")) {
    text += "  recovering for " + std::to_string(s["incident"].value("since_s", 0.0)) +
            " s from: " + s["incident"].value("what", "") + "\n  " +
            s["incident"].value("doing", "") + "\n";
  }
  text += mesh_map(s);
  for (const auto& r : s.at("ranks")) {
    const char* does = r.value("halted", false)    ? "halted"
                       : r.value("saving", false)  ? "waits for a save"
                       : r.value("waiting", false) ? "waits for others"
                                                   : "computes";
    std::snprintf(line, sizeof line, "  rank %-4d pid %-8d %-20s step %-8d %s%s\n",
                  r.value("rank", 0), r.value("pid", 0), r.value("node", "").c_str(),
                  r.value("step", 0), does, r.value("new", false) ? ", new" : "");
    text += line;
  }
  const auto nodes = s.value("nodes", nlohmann::json::array());
  for (const auto& n : nodes) {
    if (nodes.size() == 1) break;
    std::snprintf(line, sizeof line, "  node %-4d %-20s %s, %d ranks, %d spares\n",
                  n.value("node", 0), n.value("name", "").c_str(), n.value("state", "").c_str(),
                  n.value("ranks", 0), n.value("spares", 0));
    text += line;
  }
  text += saved_text(s.value("saved", nlohmann::json::object()));
  std::snprintf(line, sizeof line,
                "  %d spares; %d incidents, %.2f s lost to them, %.2f %% of %.0f s trained\n",
                s.value("spares", 0), s.value("incidents", 0), s.value("lost_s", 0.0),
                100 * s.value("goodput", 0.0), s.value("elapsed_s", 0.0));
  text += line;
  const auto spent = s.value("spent_s", nlohmann::json::object());
  std::snprintf(line, sizeof line,
                "  time: %.2f s training, %.2f s recovering, %.2f s steps done again, %.2f s "
                "starting\n",
                spent.value("training", 0.0), spent.value("recovering", 0.0),
                spent.value("again", 0.0), spent.value("starting", 0.0));
  text += line;
  for (const auto& n : s.value("notes", nlohmann::json::array())) {
    text += "  note: " + n.value("text", "") + "\n";
  }
  return text;
}

int show(const StatusArguments& a) {
  const auto answer = resilience::ask(a.run_dir, a.prometheus ? "metrics" : "status");
  if (!answer.ok()) return fail(answer.status());
  if (a.json || a.prometheus) {
    std::printf("%s%s", answer->c_str(), a.json ? "\n" : "");
    return 0;
  }
  const auto json = nlohmann::json::parse(*answer, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return fail({Code::kDataLoss, "the supervisor's answer is no JSON"});
  if (a.watch && ::isatty(STDOUT_FILENO) == 1) std::printf("\033[H\033[2J");
  std::printf("%s", text_of(json).c_str());
  std::fflush(stdout);
  return 0;
}

int status(StatusArguments a) {
  if (a.run_dir.empty()) a.run_dir = newest_run_with("control/socket");
  if (a.run_dir.empty()) {
    return fail({Code::kNotFound, "there is no run under runs/; say which RUN_DIR."});
  }
  int code = show(a);
  while (code == 0 && a.watch) {
    std::this_thread::sleep_for(std::chrono::seconds(1));
    code = show(a);
  }
  return code;
}

// Of a supervisor that may refuse.
Status request(const std::string& run_dir, const std::string& what) {
  CONVOY_ASSIGN_OR_RETURN(const std::string answer, resilience::ask(run_dir, what));
  const auto json = nlohmann::json::parse(answer, nullptr, /*allow_exceptions=*/false);
  if (!json.is_object()) return {Code::kDataLoss, "the supervisor's answer can't be read"};
  const std::string error = json.value("error", "");
  return error.empty() ? ok_status() : Status(Code::kUnavailable, error);
}

}  // namespace

void add_status(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand("status", "Show how a running job is doing");
  const auto arguments = std::make_shared<StatusArguments>();
  app->add_option("RUN_DIR", arguments->run_dir, "default: the newest under runs/");
  CLI::Option* json = app->add_flag("--json", arguments->json, "as one JSON object");
  app->add_flag("--prometheus", arguments->prometheus, "metrics, as Prometheus reads them")
      ->excludes(json);
  app->add_flag("-w,--watch", arguments->watch, "again each second");
  app->footer(kFooter);
  app->callback([&invocation, arguments] { invocation.exit_code = status(*arguments); });
}

void add_restart(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand(
      "restart", "Replace all processes of a running job, which goes on from what it has saved");
  const auto run_dir = std::make_shared<std::string>();
  app->add_option("RUN_DIR", *run_dir, "of the job")->required();
  app->footer(
      "Exit codes: 0 it is being done; 66 no such run folder; 69 no job runs there, or it\n"
      "is recovering from something just now.");
  app->callback([&invocation, run_dir] {
    const Status status = request(*run_dir, "restart");
    if (status.ok()) std::printf("all processes are being replaced; `convoy why` will tell\n");
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

void add_drain(CLI::App& root, Invocation& invocation) {
  struct Arguments {
    std::string node, run_dir;
  };
  CLI::App* app = root.add_subcommand(
      "drain", "Free a machine of a running job, which goes on elsewhere without losing a step");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("NODE", arguments->node, "its name or number, as `convoy status` shows them")
      ->required();
  app->add_option("RUN_DIR", arguments->run_dir, "of the job, on any of its machines")->required();
  app->footer(
      "Its ranks move to spares of other machines; if there are too few, the job goes on with\n"
      "fewer data-parallel replicas. Then the machine's launcher ends, with code 0. Started\n"
      "again, with the same options, it joins the job, which grows back.\n\n"
      "Exit codes: 0 it is being done, `convoy status` shows when it is; 66 no such run folder;\n"
      "69 no job runs there, or it can't be done, as the message says.");
  app->callback([&invocation, arguments] {
    const Status status = request(arguments->run_dir, "drain " + arguments->node);
    if (status.ok()) std::printf("%s is being freed\n", arguments->node.c_str());
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
