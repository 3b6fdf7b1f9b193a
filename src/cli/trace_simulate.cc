// `convoy trace simulate`: the stream file of a cluster that does not exist.
#include "src/cli/trace_simulate.h"

#include <convoy/sim/scenario.h>
#include <convoy/trace/stream.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <filesystem>
#include <memory>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;

struct Arguments {
  sim::Cluster cluster;
  std::vector<std::string> faults;
  std::string output, scenario;
  uint64_t seed = 1;
  bool json_lines = false, json = false;
};

std::string footer() {
  return "Examples:\n"
         "  convoy trace simulate --mesh tp=8,pp=4,dp=32 --steps 50 \\\n"
         "      --fault slow_compute:rank=17,factor=1.2,from=20 -o run.trace\n"
         "  convoy trace simulate --scenario net_hang --seed 7 -o run.trace\n"
         "      what the accuracy benchmark draws for this class and seed\n\n"
         "What is wrong, and since when, is printed, not written. FAULT is a name, or\n"
         "NAME:FIELD=NUMBER,… with the fields rank, peer, host, stage, factor, seconds, from and\n"
         "until (steps), every, on_s, off_s, whole_host; what is left out is chosen. Names:\n" +
         sim::fault_help() + "Exit codes: 0; 64 bad option.";
}

Json to_json(const sim::Truth& truth) {
  Json json = {
      {"class", sim::fault_name(truth.cls)}, {"onset_ns", truth.onset}, {"step", truth.step}};
  if (!truth.culprit.ranks.empty()) json["ranks"] = truth.culprit.ranks;
  if (!truth.culprit.hosts.empty()) json["hosts"] = truth.culprit.hosts;
  if (!truth.culprit.links.empty()) json["links"] = truth.culprit.links;
  if (truth.culprit.stage >= 0) json["stage"] = truth.culprit.stage;
  return json;
}

void print(const Arguments& arguments, const sim::Cluster& cluster, const sim::Outcome& outcome,
           uint64_t bytes) {
  if (arguments.json) {
    Json truths = Json::array();
    for (const sim::Truth& t : outcome.truths) truths.push_back(to_json(t));
    const Json json = {{"mesh", cluster.mesh},
                       {"seed", cluster.seed},
                       {"hung", outcome.hung},
                       {"steps", outcome.step_ends.size()},
                       {"begin_ns", outcome.begin},
                       {"end_ns", outcome.end},
                       {"operations", outcome.operations},
                       {"spans", outcome.spans},
                       {"counters", outcome.counters},
                       {"batches", outcome.batches},
                       {"bytes", bytes},
                       {"truths", truths}};
    std::printf("%s\n", json.dump().c_str());
    return;
  }
  std::printf(
      "%s: %zu steps in %.1f s of the cluster's time%s; %llu operations, %llu spans, "
      "%llu counters in %llu batches, %llu bytes\n",
      cluster.mesh.c_str(), outcome.step_ends.size(),
      static_cast<double>(outcome.end - outcome.begin) * 1e-9,
      outcome.hung ? ", then it hangs" : "", static_cast<unsigned long long>(outcome.operations),
      static_cast<unsigned long long>(outcome.spans),
      static_cast<unsigned long long>(outcome.counters),
      static_cast<unsigned long long>(outcome.batches), static_cast<unsigned long long>(bytes));
  for (const sim::Truth& t : outcome.truths) std::printf("%s\n", to_json(t).dump().c_str());
}

Result<sim::Cluster> cluster_of(const Arguments& arguments) {
  sim::Cluster cluster = arguments.cluster;
  cluster.seed = arguments.seed;
  if (!arguments.scenario.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const sim::Fault drawn, sim::parse_fault(arguments.scenario));
    cluster = sim::random_scenario(arguments.seed, drawn.cls).cluster;
  }
  for (const std::string& text : arguments.faults) {
    CONVOY_ASSIGN_OR_RETURN(const sim::Fault fault, sim::parse_fault(text));
    cluster.faults.push_back(fault);
  }
  return cluster;
}

Status simulate(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const sim::Cluster cluster, cluster_of(arguments));
  trace::Registry registry;
  if (arguments.json_lines) {
    CONVOY_ASSIGN_OR_RETURN(const auto writer,
                            trace::JsonStreamWriter::create(arguments.output, registry));
    CONVOY_ASSIGN_OR_RETURN(const sim::Outcome outcome, sim::simulate(cluster, registry, *writer));
    CONVOY_RETURN_IF_ERROR(writer->close());
    print(arguments, cluster, outcome, std::filesystem::file_size(arguments.output));
    return ok_status();
  }
  CONVOY_ASSIGN_OR_RETURN(const auto writer,
                          trace::StreamWriter::create(arguments.output, registry));
  CONVOY_ASSIGN_OR_RETURN(const sim::Outcome outcome, sim::simulate(cluster, registry, *writer));
  CONVOY_RETURN_IF_ERROR(writer->close());
  print(arguments, cluster, outcome, writer->bytes());
  return ok_status();
}

void add_cluster_options(CLI::App& app, sim::Cluster& c) {
  app.add_option("--mesh", c.mesh, "sizes of tp, cp, ep, dp, pp")->capture_default_str();
  app.add_option("--ranks-per-host", c.ranks_per_host)->capture_default_str();
  app.add_option("--steps", c.steps)->capture_default_str();
  app.add_option("--schedule", c.schedule, "gpipe, 1f1b or interleaved")->capture_default_str();
  app.add_option("--chunks", c.chunks, "virtual stages of a rank")->capture_default_str();
  app.add_option("--layers", c.model.layers)->capture_default_str();
  app.add_option("--hidden", c.model.hidden)->capture_default_str();
  app.add_option("--sequence", c.model.sequence)->capture_default_str();
  app.add_option("--micro-batches", c.model.micro_batches)->capture_default_str();
  app.add_option("--jitter", c.compute_jitter, "of computations, sigma")->capture_default_str();
  app.add_option("--network-jitter", c.network_jitter)->capture_default_str();
  app.add_option("--checkpoint-every", c.checkpoint_every, "steps; 0: never");
  app.add_option("--evaluate-every", c.evaluate_every, "steps; 0: never");
  app.add_option("--event-loss", c.telemetry.loss, "share of events");
  app.add_option("--period", c.telemetry.period_s, "seconds between the batches of a rank")
      ->capture_default_str();
  app.add_option("--after-hang", c.after_hang_s, "seconds that heartbeats go on")
      ->capture_default_str();
}

}  // namespace

void add_trace_simulate(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand(
      "simulate", "Write the trace of a simulated cluster, with faults if wanted");
  const auto arguments = std::make_shared<Arguments>();
  add_cluster_options(*app, arguments->cluster);
  app->add_option("--fault", arguments->faults, "what goes wrong; more than once");
  app->add_option("--scenario", arguments->scenario,
                  "a random cluster with a random fault of this name, drawn from the seed; other "
                  "options of the cluster have no effect");
  app->add_option("--seed", arguments->seed)->capture_default_str();
  app->add_option("-o,--output", arguments->output, "the file to write")->required();
  app->add_flag("--json-lines", arguments->json_lines, "write it as JSON lines");
  app->add_flag("--json", arguments->json, "print the summary as one line of JSON");
  app->footer(footer());
  app->callback([&invocation, arguments] {
    const Status status = simulate(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
