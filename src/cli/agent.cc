// `convoy agent`: the process of a node that keeps checkpoints for its ranks.
#include "src/cli/commands.h"
#include <convoy/ckpt/agent.h>

#include <memory>

namespace convoy::cli {
namespace {

constexpr const char* kFooter =
    R"(It outlives the trainers of a job: one that is started again finds its newest snapshot in memory.
C++ programs talk to it with convoy/ckpt/client.h. Convoy's own trainer and `convoy run` do not use
it yet.

  convoy agent --name my-agent &

SIGTERM: ends once everything that was handed over is durable. A second one: at once.

Exit codes: 0 ended so; 64 bad option; 69 somebody has the name.)";

}  // namespace

void add_agent(CLI::App& root, Invocation& invocation) {
  CLI::App* app =
      root.add_subcommand("agent", "Keep this node's checkpoints, beyond the life of its trainers");
  const auto options = std::make_shared<ckpt::AgentOptions>();  // shared with the callback
  app->add_option("--name", options->name, "of its socket")->required();
  app->add_option("--lifeline", options->lifeline,
                  "a descriptor whose other end closes when the agent should end");
  app->footer(kFooter);
  app->callback([&invocation, options] {
    const Status status = ckpt::run_agent(*options);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
