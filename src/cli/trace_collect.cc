// `convoy trace collect`: sends what the ranks of this machine record to an aggregator.
#include "src/cli/trace_node.h"
#include <convoy/base/units.h>

#include <cstdio>
#include <memory>

namespace convoy::cli {
namespace {

struct CollectArguments {
  trace::CollectorOptions options;
  ConnectionArguments connection;
  JobArguments job;
  std::string buffer = "64MiB", period = "250ms";
  std::vector<int> pids;
};

constexpr const char* kFooter = R"(Example:
  convoy trace collect --to head:7070

It finds the processes that record by itself, also those that begin later, and reads on when one has
died. What the aggregator does not take waits in memory; beyond --buffer details go first, then
spans, then operations, and how much went is told. It ends with SIGINT or SIGTERM.
Exit codes: 0; 64 bad option; 66 no such file.)";

Status run(CollectArguments& arguments) {
  trace::CollectorOptions& options = arguments.options;
  CONVOY_ASSIGN_OR_RETURN(options.connection, connection_of(arguments.connection));
  CONVOY_ASSIGN_OR_RETURN(options.buffer_bytes_max, parse_bytes("--buffer", arguments.buffer));
  CONVOY_ASSIGN_OR_RETURN(options.period, parse_duration("--period", arguments.period));
  CONVOY_ASSIGN_OR_RETURN(options.job, job_of(arguments.job));
  options.job.world_size = 0;  // told when ranks are found, with their generation
  options.look_around = arguments.pids.empty() && arguments.job.launcher < 0;
  options.parent_tells = arguments.job.launcher >= 0;
  hold_signals();
  CONVOY_ASSIGN_OR_RETURN(const auto collector, trace::Collector::start(options));
  for (const int pid : arguments.pids) collector->watch(pid);
  std::printf("sending to %s\n", options.aggregator.c_str());
  std::fflush(stdout);
  await_end(arguments.job.launcher, collector.get());
  const trace::CollectorStats stats = collector->stats();
  std::printf("%llu events, %s sent; given up: %llu details, %llu spans, %llu operations\n",
              static_cast<unsigned long long>(stats.events), format_bytes(stats.sent_bytes).c_str(),
              static_cast<unsigned long long>(stats.shed[0]),
              static_cast<unsigned long long>(stats.shed[1]),
              static_cast<unsigned long long>(stats.shed[2]));
  return ok_status();
}

}  // namespace

void add_trace_collect(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("collect", "Send what this machine's ranks record");
  const auto arguments = std::make_shared<CollectArguments>();
  app->add_option("--to", arguments->options.aggregator, "the aggregator, HOST:PORT")->required();
  add_job(*app, "only processes whose CONVOY_JOB_ID is this one or unset", arguments->job);
  app->add_option("--host", arguments->options.host, "name of this machine; default: its own");
  app->add_option("--buffer", arguments->buffer, "of what waits; default: 64MiB")
      ->type_name("SIZE");
  app->add_option("--period", arguments->period, "between two looks at a rank; default: 250ms")
      ->type_name("TIME");
  add_connection(*app, arguments->connection);
  app->add_option("PID", arguments->pids, "of these processes; default: all that record");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = run(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
