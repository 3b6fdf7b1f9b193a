// `convoy supervisor`: leads a job's workers from one generation into the next.
#include "src/cli/commands.h"
#include "src/cli/trace_node.h"
#include <convoy/resilience/supervise.h>

#include <memory>

namespace convoy::cli {
namespace {

struct SupervisorArguments {
  resilience::SuperviseOptions options;
  std::string to;
  ConnectionArguments connection;
};

Status run(SupervisorArguments& arguments) {
  resilience::SuperviseOptions& options = arguments.options;
  CONVOY_ASSIGN_OR_RETURN(options.connection, connection_of(arguments.connection));
  if (arguments.to.empty()) return resilience::supervise(options);
  return resilience::relay({options.line, arguments.to, options.connection});
}

}  // namespace

void add_supervisor(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand(
      "supervisor", "See to it that a job goes on when ranks fail; `convoy run` starts it");
  const auto arguments = std::make_shared<SupervisorArguments>();
  resilience::SuperviseOptions& o = arguments->options;
  app->add_option("--line", o.line, "descriptor of packets to and from the launcher")->required();
  CLI::Option* to = app->add_option(
      "--to", arguments->to,
      "HOST:PORT of the supervisor on another machine: hand on what it and this launcher say");
  app->add_option("--job", o.job, "its name");
  app->add_flag("--common-id", o.has_common_id, "all machines know the job by this name");
  CLI::Option* run_dir =
      app->add_option("--run-dir", o.run_dir, "for control/state.json and incidents.jsonl")
          ->check(CLI::ExistingDirectory)
          ->excludes(to);
  app->add_option("--mesh", o.mesh, "of the ranks; default: all data parallel");
  app->add_option("--ranks", o.ranks, "of the job")->needs(run_dir);
  app->add_option("--spares", o.spares, "that wait on each machine");
  app->add_option("--min-dp", o.min_dp, "replicas with which the job goes on");
  app->add_option("--webhook", o.webhook, "a URL that is told of incidents, and the job's end");
  app->add_option("--metrics", o.metrics, "[ADDRESS:]PORT where Prometheus reads /metrics");
  app->add_option("--nnodes", o.nodes, "machines of the job")->check(CLI::Range(1, 100000));
  app->add_option("--etcd", o.etcd, "where control state is: any machine may lead");
  app->add_option("--node", o.node, "that this is");
  app->add_option("--launcher", o.launcher, "with --etcd: the launcher's name");
  app->add_option("--port", o.port, "where other machines' launchers connect");
  add_connection(*app, arguments->connection);
  app->footer(
      "It waits for nothing and keeps nothing but two files of the run folder: killed, it is\n"
      "started again and goes on.\n\n"
      "Exit codes: 0 the launcher has gone; 64 bad option; 65 control/state.json is damaged;\n"
      "69 the port is taken; 75 with --etcd: another machine leads now, or none does any more.");
  app->callback([&invocation, arguments, to, run_dir] {
    if (to->count() == 0 && run_dir->count() == 0) {
      invocation.exit_code = fail({Code::kInvalidArgument, "--run-dir or --to is needed."});
      return;
    }
    const Status status = run(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
