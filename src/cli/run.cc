// `convoy run`: its options, its help, and the checks that need more than the launcher knows.
#include "src/cli/commands.h"
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/launch/launcher.h>
#include <convoy/mesh/mesh.h>

#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <unistd.h>
#include <vector>

namespace convoy::cli {
namespace {

struct RunArguments {
  launch::LaunchOptions options;
  std::string rendezvous;
  std::string grace = "10s";
  std::string drain_timeout = "2m";
  bool no_agent = false;
  bool no_recover = false;
  std::vector<std::string> environment;
  int port = 0;
  bool no_prefix = false;
  bool rehearse = false;
  int gpus = 0;
  std::string gpu_memory = "2GiB";
  std::string seed = "0";
  CLI::Option* trace = nullptr;
  launch::Tracing tracing;
};

constexpr const char* kFooter = R"(Examples:
  convoy run -n 4 -- ./train --steps 100
      4 ranks; output on the terminal as "[3] ...", and in runs/<job>/logs/rank_3.log
  convoy run -n 8 --mesh tp=2,pp=2,dp=2 -- python train.py
      the mesh is checked against -n and handed to the program as CONVOY_MESH
  convoy run -n 8 --nnodes 2 --node-rank 0 --rdzv 10.0.0.1:29500 -- ./train
      the first of two machines with 8 ranks each; the other one says --node-rank 1
  convoy run -n 2 --env CONVOY_LOG=debug --output /tmp/try -- ./train
  convoy run -n 2 --json -- ./train | jq
      one JSON line at the start, for each rank's end, and at the end
  convoy run -n 8 --trace -- python train.py
      whoever makes the others wait, or dies, is told; more in runs/<job>/trace/report.html
  convoy run -n 4 --rehearse --seed 1 -- python train.py
      no GPU: 4 ranks on 4 simulated ones, and at the end what the program did wrong

Ctrl-C asks all ranks to end and kills them after the grace time; a second one kills at once.
When a rank dies, a process takes its place if the program can go on (docs/recovery.md; `convoy why`
tells the story); else the others are ended within 1 s and its last lines are shown. On several machines the launchers lead
each other's ranks on; --token-file and --tls-… keep strangers out.
However the job ends, what ranks have saved is written before `convoy run` returns; Ctrl-C twice gives that up.

Exit codes:
  0    every rank ended with 0
  N    the exit code of the rank that died first (128 + signal, if a signal killed it)
  64   bad option or input; nothing was started
  69   the port is in use
  70   the launcher itself failed
  74   every rank ended with 0, and a checkpoint that they had saved could not be written
  76   every rank ended with 0, and the rehearsal found mistakes
  126  PROGRAM is not executable       127  there is no such PROGRAM
  130  ended by Ctrl-C (143: SIGTERM, 129: SIGHUP)
The variables that ranks find: `convoy env`.)";

class RunFormatter final : public CLI::Formatter {
 public:
  std::string make_usage(const CLI::App* /*app*/, std::string /*name*/) const override {
    return "Usage: convoy run -n N [OPTIONS] -- PROGRAM ARGS...\n";
  }
};

// This program, also when it was replaced by a newer one meanwhile.
std::string own_program() {
  std::error_code error;
  const std::filesystem::path path = std::filesystem::read_symlink("/proc/self/exe", error);
  return ::access(path.c_str(), X_OK) == 0 ? path.string() : "/proc/self/exe";
}

Status read_rendezvous(const std::string& text, launch::LaunchOptions* options) {
  const size_t colon = text.rfind(':');
  if (colon == std::string::npos || colon == 0) {
    return {Code::kInvalidArgument,
            "--rdzv is '" + text + "', but must be HOST:PORT, e.g. 10.0.0.1:29500."};
  }
  CONVOY_ASSIGN_OR_RETURN(const int64_t port,
                          parse_integer("--rdzv's port", text.substr(colon + 1), 1, 65535));
  options->master_addr = text.substr(0, colon);
  options->port = static_cast<uint16_t>(port);
  return ok_status();
}

Status complete_tracing(RunArguments* arguments) {
  launch::Tracing& tracing = arguments->tracing;
  if (arguments->trace->count() == 0 && tracing.aggregator.empty()) {
    if (tracing.protection.empty()) return ok_status();
    return {Code::kInvalidArgument,
            "--trace-token-file and --trace-tls-… need --trace or --trace-to."};
  }
  const size_t colon = tracing.aggregator.rfind(':');
  if (!tracing.aggregator.empty() && (colon == std::string::npos || colon == 0)) {
    return {Code::kInvalidArgument,
            "--trace-to is '" + tracing.aggregator + "', but must be HOST:PORT, e.g. head:7070."};
  }
  tracing.program = own_program();
  if (tracing.protection.empty()) tracing.protection = arguments->options.protection;
  arguments->options.tracing = tracing;
  return ok_status();
}

// Who wants to hear of the job.
Status check_observers(const launch::LaunchOptions& options) {
  const std::string& url = options.webhook;
  if (!url.empty() && !url.starts_with("http://") && !url.starts_with("https://")) {
    return {Code::kInvalidArgument, "--webhook's URL begins with http:// or https://."};
  }
  if (options.metrics.empty()) return ok_status();
  const size_t colon = options.metrics.rfind(':');
  const std::string port =
      colon == std::string::npos ? options.metrics : options.metrics.substr(colon + 1);
  return parse_integer("--metrics' port", port, 1, 65535).status();
}

Status complete(const Invocation& invocation, RunArguments* arguments) {
  launch::LaunchOptions& options = arguments->options;
  options.program = invocation.program;
  options.prefix = !arguments->no_prefix;
  options.recover = !arguments->no_recover;
  options.port = static_cast<uint16_t>(arguments->port);
  CONVOY_ASSIGN_OR_RETURN(options.grace, parse_duration("--grace", arguments->grace));
  CONVOY_ASSIGN_OR_RETURN(options.drain_timeout,
                          parse_duration("--drain-timeout", arguments->drain_timeout));
  if (!arguments->no_agent) options.agent_program = own_program();
  if (!arguments->rendezvous.empty()) {
    CONVOY_RETURN_IF_ERROR(read_rendezvous(arguments->rendezvous, &options));
  }
  for (const std::string& entry : arguments->environment) {
    const size_t equals = entry.find('=');
    if (equals == std::string::npos || equals == 0) {
      return {Code::kInvalidArgument, "--env is '" + entry + "', but must be NAME=VALUE."};
    }
    options.environment.emplace_back(entry.substr(0, equals), entry.substr(equals + 1));
  }
  if (arguments->rehearse) {
    launch::Rehearsal& rehearsal = options.rehearsal.emplace();
    rehearsal.gpus = arguments->gpus;
    CONVOY_ASSIGN_OR_RETURN(rehearsal.gpu_memory,
                            parse_bytes("--gpu-memory", arguments->gpu_memory));
    CONVOY_ASSIGN_OR_RETURN(const int64_t seed, parse_integer("--seed", arguments->seed, 0));
    rehearsal.seed = static_cast<uint64_t>(seed);
  }
  CONVOY_RETURN_IF_ERROR(complete_tracing(arguments));
  CONVOY_RETURN_IF_ERROR(check_observers(options));
  if (!options.mesh.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const Mesh mesh,
                            Mesh::parse(options.mesh, options.ranks * options.nodes));
    options.mesh = mesh.to_string();
  }
  return ok_status();
}

int run(const Invocation& invocation, RunArguments* arguments) {
  if (const Status status = complete(invocation, arguments); !status.ok()) return fail(status);
  const Result<int> code = launch::launch(arguments->options);
  if (code.ok()) return code.value();
  fail(code.status());
  return launch::exit_code_of(code.status());
}

}  // namespace

void add_run(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand("run", "Start a program on N ranks, and end them together");
  const auto arguments = std::make_shared<RunArguments>();  // shared by the options and callback
  launch::LaunchOptions& o = arguments->options;
  app->formatter(std::make_shared<RunFormatter>());
  app->add_option("-n,--ranks", o.ranks, "ranks on this machine")
      ->required()
      ->check(CLI::Range(1, 4096))
      ->type_name("N");
  app->add_option("--mesh", o.mesh, "how ranks are arranged; default: all data parallel")
      ->envname("CONVOY_MESH")
      ->type_name("tp=2,pp=2,dp=2");
  app->add_option("--output", o.output, "run folder; default: runs/<job> in this folder")
      ->type_name("DIR");
  app->add_option("--threads", o.threads, "OMP_NUM_THREADS; default: cores / ranks, at least 1")
      ->check(CLI::Range(1, 4096))
      ->type_name("T");
  app->add_option("--env", arguments->environment, "a variable for the ranks; may be repeated")
      ->take_all()
      ->expected(1)
      ->type_name("NAME=VALUE");
  app->add_option("--grace", arguments->grace, "from Ctrl-C to SIGKILL; default: 10s")
      ->type_name("TIME");
  app->add_option(
         "--drain-timeout", arguments->drain_timeout,
         "the job's end waits for checkpoints to be written, unless nothing is written for "
         "so long; default: 2m")
      ->type_name("TIME");
  app->add_flag("--no-agent", arguments->no_agent, "no agent: ranks that save are refused");
  app->add_option("--spares", o.spares,
                  "processes that wait, ready to take the place of a rank that fails")
      ->check(CLI::Range(0, 64))
      ->type_name("K");
  app->add_option("--min-dp", o.min_dp,
                  "while machines are missing, go on with as few data-parallel replicas as this, "
                  "with the same global batch; default: 1")
      ->check(CLI::Range(1, 1 << 20))
      ->type_name("N");
  app->add_option("--webhook", o.webhook,
                  "POST JSON there of each incident, each that is survived, and the job's end")
      ->type_name("URL");
  app->add_option("--metrics", o.metrics,
                  "serve /metrics of the job's supervisor for Prometheus; default address: "
                  "127.0.0.1")
      ->type_name("[ADDRESS:]PORT");
  app->add_flag("--no-recover", arguments->no_recover,
                "a rank that dies ends the job, even if the program can go on without it");
  app->add_flag("--no-prefix", arguments->no_prefix, "show lines as they are, without \"[3] \"");
  app->add_flag("--json", o.json, "events as JSON lines on stdout, the ranks' output on stderr");
  CLI::Option* port = app->add_option("--port", arguments->port, "MASTER_PORT; default: a free one")
                          ->check(CLI::Range(1, 65535))
                          ->type_name("P");
  CLI::Option* rendezvous =
      app->add_option(
             "--rdzv", arguments->rendezvous,
             "several machines: the first one's address, and a free port there, below 32768")
          ->type_name("HOST:PORT")
          ->excludes(port);
  app->add_option("--nnodes", o.nodes, "machines of the job, each with N ranks")
      ->check(CLI::Range(1, 100000))
      ->type_name("M");
  app->add_option("--node-rank", o.node_rank, "which of them this is, from 0")
      ->check(CLI::Range(0, 99999))
      ->type_name("K")
      ->needs(rendezvous);
  app->add_option(
         "--etcd", o.etcd,
         "several machines: etcd's members, where the job's control state is kept, so that "
         "it outlives any machine; \"https://\" in front: with --tls-…")
      ->type_name("HOST:PORT[,…]")
      ->needs(rendezvous);
  app->add_option("--control-port", o.control_port,
                  "several machines: where the first one takes the others' launchers, so that the "
                  "job survives faults; default: --rdzv's port + 2")
      ->check(CLI::Range(1, 65535))
      ->type_name("P")
      ->needs(rendezvous);
  arguments->trace = app->add_option("--trace", arguments->tracing.folder,
                                     "say who is slow or stuck, on a page and in a report, which "
                                     "goes to FOLDER; default: trace/ in the run folder")
                         ->expected(0, 1)
                         ->type_name("[FOLDER]");
  CLI::Option* trace_to =
      app->add_option("--trace-to", arguments->tracing.aggregator,
                      "send what ranks record to a `convoy trace serve` that runs already")
          ->type_name("HOST:PORT")
          ->excludes(arguments->trace);
  app->add_option("--trace-port", arguments->tracing.port,
                  "where --trace takes other machines' records; default: the port after --rdzv's")
      ->check(CLI::Range(1, 65535))
      ->type_name("P")
      ->needs(arguments->trace)
      ->excludes(trace_to);
  const auto add_file = [app](const char* name, std::string& path, const char* help) {
    app->add_option(name, path, help)->check(CLI::ExistingFile)->type_name("FILE");
  };
  add_file("--token-file", o.protection.token_file,
           "several machines: only who has the same first line in FILE is heard");
  add_file("--tls-certificate", o.protection.certificate,
           "PEM file of this machine: machines talk over mutual TLS");
  add_file("--tls-key", o.protection.key, "PEM file, the certificate's key");
  add_file("--tls-roots", o.protection.roots, "PEM file, of who signs the machines' certificates");
  launch::Protection& traces = arguments->tracing.protection;
  add_file("--trace-token-file", traces.token_file, "of the tracer alone; as the next ones");
  add_file("--trace-tls-certificate", traces.certificate, "default: as without \"trace-\"");
  add_file("--trace-tls-key", traces.key, "PEM file");
  add_file("--trace-tls-roots", traces.roots, "PEM file");
  CLI::Option* rehearse = app->add_flag("--rehearse", arguments->rehearse,
                                        "without GPUs, on a stand-in that looks for mistakes");
  app->add_option("--gpus", arguments->gpus, "simulated GPUs; default: one for each rank")
      ->check(CLI::Range(1, 16))
      ->type_name("G")
      ->needs(rehearse);
  app->add_option("--gpu-memory", arguments->gpu_memory, "of each of them; default: 2GiB")
      ->type_name("SIZE")
      ->needs(rehearse);
  app->add_option("--seed", arguments->seed,
                  "delays and reorders what CUDA leaves open; default: 0, nothing is held back")
      ->type_name("S")
      ->needs(rehearse);
  app->footer(kFooter);
  app->callback(
      [&invocation, arguments] { invocation.exit_code = run(invocation, arguments.get()); });
}

}  // namespace convoy::cli
