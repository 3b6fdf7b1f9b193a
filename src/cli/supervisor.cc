// `convoy supervisor`: leads a job's workers from one generation into the next.
#include "src/cli/commands.h"
#include <convoy/resilience/supervise.h>

#include <memory>

namespace convoy::cli {

void add_supervisor(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand(
      "supervisor", "See to it that a job goes on when ranks fail; `convoy run` starts it");
  const auto options = std::make_shared<resilience::SuperviseOptions>();
  app->add_option("--line", options->line, "descriptor of packets to and from the launcher")
      ->required();
  app->add_option("--job", options->job, "its name")->required();
  app->add_option("--run-dir", options->run_dir, "for control/state.json and incidents.jsonl")
      ->required()
      ->check(CLI::ExistingDirectory);
  app->add_option("--mesh", options->mesh, "of the ranks; default: all data parallel");
  app->add_option("--ranks", options->ranks, "of the job")->required();
  app->add_option("--spares", options->spares, "that wait");
  app->footer(
      "It waits for nothing and keeps nothing but two files of the run folder: killed, it is\n"
      "started again and goes on.\n\n"
      "Exit codes: 0 the launcher has gone; 64 bad option; 65 control/state.json is damaged.");
  app->callback([&invocation, options] {
    const Status status = resilience::supervise(*options);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
