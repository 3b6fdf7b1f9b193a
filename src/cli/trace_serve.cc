// `convoy trace serve`: the process where the events of all ranks of a job come together.
#include "src/cli/trace_consumers.h"
#include "src/cli/trace_node.h"
#include <convoy/base/clock.h>
#include <convoy/base/units.h>
#include <convoy/trace/aggregator.h>

#include <cstdio>
#include <memory>

namespace convoy::cli {
namespace {

constexpr Nanos kOthersPatience = std::chrono::seconds(10);

struct ServeArguments {
  trace::AggregatorOptions options;
  ConnectionArguments connection;
  ConsumerArguments consumers;
  JobArguments job;
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

// This machine's ranks, through the same door as those of others.
Result<std::unique_ptr<trace::Collector>> collect_here(const ServeArguments& arguments,
                                                       uint16_t port) {
  trace::CollectorOptions options;
  options.aggregator = "127.0.0.1:" + std::to_string(port);
  options.connection = arguments.options.connection;
  options.job = arguments.options.job;
  options.look_around = arguments.job.launcher < 0;
  options.parent_tells = !options.look_around;
  options.last_words = kOthersPatience;  // the other end is here: it will take them
  return trace::Collector::start(options);
}

// What the launchers of other machines still have to say when this one's job has ended.
void await_others(const trace::Aggregator& aggregator) {
  const Deadline deadline = Deadline::after(kOthersPatience);
  while (aggregator.stats().clients > 0 && !deadline.passed()) {
    Clock::system().sleep_for(std::chrono::milliseconds(20));
  }
}

Status run(ServeArguments& arguments) {
  trace::AggregatorOptions& options = arguments.options;
  CONVOY_ASSIGN_OR_RETURN(options.connection, connection_of(arguments.connection));
  CONVOY_ASSIGN_OR_RETURN(options.job, job_of(arguments.job));
  hold_signals();
  arguments.consumers.for_launcher = arguments.job.launcher >= 0;
  CONVOY_ASSIGN_OR_RETURN(const auto consumers, Consumers::create(arguments.consumers));
  options.registry = &consumers->registry();
  options.sinks = consumers->sinks();
  options.turn = [&](int64_t now) { consumers->turn(now); };
  CONVOY_ASSIGN_OR_RETURN(auto aggregator, trace::Aggregator::start(options));
  std::unique_ptr<trace::Collector> collector;
  if (arguments.collect || arguments.job.launcher >= 0) {
    CONVOY_ASSIGN_OR_RETURN(collector, collect_here(arguments, aggregator->port()));
  }
  std::printf("listening at port %u\n", static_cast<unsigned>(aggregator->port()));
  if (!consumers->page_url().empty()) std::printf("page: %s\n", consumers->page_url().c_str());
  std::fflush(stdout);
  await_end(arguments.job.launcher, collector.get());
  collector = nullptr;  // sends what is there
  if (arguments.job.launcher >= 0) await_others(*aggregator);
  const trace::AggregatorStats stats = aggregator->stats();
  aggregator = nullptr;
  std::printf("%llu events of %u ranks in %llu batches, %s; %llu clients were refused\n",
              static_cast<unsigned long long>(stats.events), stats.ranks,
              static_cast<unsigned long long>(stats.batches), format_bytes(stats.bytes).c_str(),
              static_cast<unsigned long long>(stats.refused));
  if (stats.ranks == 0) {
    std::printf("nothing was recorded: a PyTorch script has to call convoy.trace.start()\n");
  }
  // The root's clock.
  return consumers->finish(std::chrono::system_clock::now().time_since_epoch() / Nanos(1));
}

}  // namespace

void add_trace_serve(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("serve", "Take the events of all ranks of a job");
  const auto arguments = std::make_shared<ServeArguments>();
  app->add_option("--host", arguments->options.host, "address to listen at; default: all");
  app->add_option("--port", arguments->options.port, "default: any free one, which is printed");
  app->add_flag("--collect", arguments->collect, "take what this machine's ranks record, too");
  add_consumers(*app, arguments->consumers);
  add_job(*app, "take only clients of this job; default: the first one's", arguments->job);
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
