// `convoy trace serve`: the process where the events of all ranks of a job come together.
#include "src/cli/trace_consumers.h"
#include "src/cli/trace_node.h"
#include <convoy/base/units.h>
#include <convoy/mesh/mesh.h>
#include <convoy/trace/aggregator.h>
#include <convoy/trace/collector.h>

#include <cstdio>
#include <memory>

namespace convoy::cli {
namespace {

struct ServeArguments {
  trace::AggregatorOptions options;
  ConnectionArguments connection;
  ConsumerArguments consumers;
  std::string mesh;
  int world_size = 0;
  bool collect = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy trace serve --collect --page 8080 --run-file run.trace --report report.html
      all that records on this machine: verdicts here and on a page, a report at the end (Ctrl-C)
  convoy trace serve --port 7070 --run-file run.trace
  convoy trace collect --to head:7070          on each machine
  convoy trace serve --parent head:7070        for some of the machines, of very large jobs

Without --token-file and --tls-* whoever reaches the port can send. It ends with SIGINT or SIGTERM.
Exit codes: 0; 64 bad option; 66 no such file; 69 the port is taken.)";

Status read_mesh(const ServeArguments& arguments, trace::JobInfo& job) {
  job.world_size = static_cast<uint32_t>(arguments.world_size);
  if (arguments.mesh.empty()) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(const Mesh mesh, Mesh::parse(arguments.mesh, arguments.world_size));
  for (const MeshDim& dim : mesh.dims()) {
    job.mesh.push_back({dim.name, static_cast<uint32_t>(dim.size)});
  }
  return ok_status();
}

// This machine's ranks, through the same door as those of others.
Result<std::unique_ptr<trace::Collector>> collect_here(const ServeArguments& arguments,
                                                       uint16_t port) {
  trace::CollectorOptions options;
  options.aggregator = "127.0.0.1:" + std::to_string(port);
  options.connection = arguments.options.connection;
  options.job = arguments.options.job;
  return trace::Collector::start(options);
}

Status run(ServeArguments& arguments) {
  trace::AggregatorOptions& options = arguments.options;
  CONVOY_ASSIGN_OR_RETURN(options.connection, connection_of(arguments.connection));
  CONVOY_RETURN_IF_ERROR(read_mesh(arguments, options.job));
  hold_signals();
  CONVOY_ASSIGN_OR_RETURN(const auto consumers, Consumers::create(arguments.consumers));
  options.registry = &consumers->registry();
  options.sinks = consumers->sinks();
  options.turn = [&](int64_t now) { consumers->turn(now); };
  CONVOY_ASSIGN_OR_RETURN(auto aggregator, trace::Aggregator::start(options));
  std::unique_ptr<trace::Collector> collector;
  if (arguments.collect) {
    CONVOY_ASSIGN_OR_RETURN(collector, collect_here(arguments, aggregator->port()));
  }
  std::printf("listening at port %u\n", static_cast<unsigned>(aggregator->port()));
  if (!consumers->page_url().empty()) std::printf("page: %s\n", consumers->page_url().c_str());
  std::fflush(stdout);
  await_end([] {});
  collector = nullptr;  // sends what is there
  const trace::AggregatorStats stats = aggregator->stats();
  aggregator = nullptr;
  std::printf("%llu events of %u ranks in %llu batches, %s; %llu clients were refused\n",
              static_cast<unsigned long long>(stats.events), stats.ranks,
              static_cast<unsigned long long>(stats.batches), format_bytes(stats.bytes).c_str(),
              static_cast<unsigned long long>(stats.refused));
  return consumers->finish();
}

}  // namespace

void add_trace_serve(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("serve", "Take the events of all ranks of a job");
  const auto arguments = std::make_shared<ServeArguments>();
  app->add_option("--host", arguments->options.host, "address to listen at; default: all");
  app->add_option("--port", arguments->options.port, "default: any free one, which is printed");
  app->add_flag("--collect", arguments->collect, "take what this machine's ranks record, too");
  add_consumers(*app, arguments->consumers);
  app->add_option("--job", arguments->options.job.job,
                  "take only clients of this job; default: the first one's");
  CLI::Option* size =
      app->add_option("--world-size", arguments->world_size, "ranks of the job, for --mesh");
  app->add_option("--mesh", arguments->mesh, "how the ranks are arranged, as tp=2,pp=2,dp=2")
      ->needs(size);
  app->add_option("--parent", arguments->options.parent,
                  "send everything on to this aggregator, HOST:PORT");
  add_connection(*app, arguments->connection);
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = run(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
