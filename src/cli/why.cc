// `convoy why`: what happened, what was decided, and what it cost.
#include "src/cli/commands.h"
#include "src/cli/runs.h"
#include "src/resilience/incident/incident.h"

#include <cstdio>
#include <memory>

namespace convoy::cli {
namespace {

constexpr const char* kFooter = R"(Examples:
  convoy why                   the last incident of the newest run under runs/
  convoy why runs/demo --all   all of them, a line each
  convoy why runs/demo --json | jq .first_step_s

A job's incidents are lines of RUN_DIR/incidents.jsonl; docs/recovery.md lists the fields.

Exit codes: 0 told; 66 no such run folder, or nothing ever went wrong there.)";

struct WhyArguments {
  std::string run_dir;
  bool all = false;
  bool json = false;
};

int why(WhyArguments a) {
  if (a.run_dir.empty()) a.run_dir = newest_run_with("incidents.jsonl");
  if (a.run_dir.empty()) {
    return fail({Code::kNotFound, "no run under runs/ has an incident; say which RUN_DIR."});
  }
  const auto records = resilience::read_incidents(a.run_dir);
  if (!records.ok()) {
    return fail({Code::kNotFound, "nothing went wrong in " + a.run_dir + ", as far as is known (" +
                                      records.status().message() + ")."});
  }
  if (records->empty()) return fail({Code::kNotFound, "nothing went wrong in " + a.run_dir + "."});
  for (size_t i = a.all ? 0 : records->size() - 1; i < records->size(); ++i) {
    const auto& record = (*records)[i];
    if (a.json) {
      std::printf("%s\n", resilience::to_json(record).c_str());
    } else if (a.all) {
      std::printf("%3d  %s\n", record.id, resilience::headline(record).c_str());
    } else {
      std::printf("%s", resilience::story(record).c_str());
    }
  }
  return 0;
}

}  // namespace

void add_why(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand("why", "Tell the story of a job's last incident");
  const auto arguments = std::make_shared<WhyArguments>();
  app->add_option("RUN_DIR", arguments->run_dir, "default: the newest under runs/");
  app->add_flag("--all", arguments->all, "all incidents, a line each");
  app->add_flag("--json", arguments->json, "as JSON lines");
  app->footer(kFooter);
  app->callback([&invocation, arguments] { invocation.exit_code = why(*arguments); });
}

}  // namespace convoy::cli
