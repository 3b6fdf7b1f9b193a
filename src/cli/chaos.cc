// `convoy chaos`: faults into a running job, and what must hold all the same.
#include "src/cli/commands.h"
#include "src/cli/runs.h"
#include "src/cli/table.h"
#include "src/resilience/chaos/session.h"
#include <convoy/base/units.h>

#include <chrono>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>

namespace convoy::cli {
namespace {

namespace chaos = resilience::chaos;

constexpr int kExitBroken = 1;

constexpr const char* kFooter = R"(Examples:
  convoy run -n 8 --mesh tp=2,pp=2,dp=2 --spares 1 -- ./train_llama --data text.tokens &
  convoy chaos --seed 7 --faults 10             ten faults that the seed draws
  convoy chaos --seed 7 --faults 10 --dry-run   prints them, as a scenario
  convoy chaos runs/demo --scenario faults.json --reference runs/undisturbed/metrics.jsonl

A scenario: {"faults": [
  {"kind": "kill", "ranks": [3], "at_step": 20},
  {"kind": "kill_supervisor", "in_recovery": true},
  {"kind": "pause", "ranks": [1], "seconds": 0.5, "after_s": 3}]}
Kinds: kill, crash, terminate, halt, pause (ranks); flip, flip_gradient (ranks, amount); hog, memory
(amount, seconds); kill_spare, kill_supervisor, halt_supervisor, kill_agent, kill_tracer, corrupt;
disk_full, disk_slow, cut_link (seconds); slow_link (seconds, amount). docs/chaos.md explains them.

It strikes the job's processes, its --checkpoints, the --link, and nothing else. Each fault is a line of
RUN_DIR/chaos.jsonl.

Exit codes: 0 everything held; 1 an invariant was broken (the report says which); 64 bad option or
scenario; 66 no such run folder or file; 69 no job runs there, its program can't be led, or it
ended before the first fault.)";

struct ChaosArguments {
  chaos::Options options;
  std::string every = "10s", deadline, scenario;
  uint64_t seed = 1;
  int faults = 10;
  bool json = false, dry_run = false;
};

Result<std::vector<chaos::Fault>> plan_of(const ChaosArguments& a, const chaos::Target& target) {
  if (!a.scenario.empty()) {
    std::ifstream file(a.scenario);
    if (!file) return Status(Code::kNotFound, "there is no scenario " + a.scenario);
    const std::string text{std::istreambuf_iterator<char>(file), {}};
    auto plan = chaos::scenario_of_json(text, target);
    if (!plan.ok()) return plan.status().with_context(a.scenario);
    return plan;
  }
  CONVOY_ASSIGN_OR_RETURN(const Nanos every, parse_duration("--every", a.every));
  return chaos::draw(a.seed, a.faults, to_seconds(every), target);
}

std::string with_unit(double value, const char* format) {
  char text[32];
  std::snprintf(text, sizeof text, format, value);
  return text;
}

void print_faults(const chaos::Report& r) {
  Table table({">", "fault", ">step", ">generation", "back"}, 1);
  for (const chaos::Done& d : r.done) {
    const bool missed = d.fault.in_recovery && !d.was_recovering;
    table.add({std::to_string(d.id), describe(d.fault) + (missed ? " (it was over)" : ""),
               std::to_string(d.step), std::to_string(d.generation),
               !d.why_not.empty() ? "not done: " + d.why_not
               : d.back_s < 0     ? "no"
                                  : with_unit(d.back_s, "%.2f s")});
  }
  table.print();
}

void print_invariants(const chaos::Report& r) {
  Table table({"invariant", "", ">checked"}, 0);
  for (const chaos::Invariant& i : r.invariants) {
    table.add({i.name, i.broken.empty() ? "held" : "BROKEN", std::to_string(i.checked)});
  }
  table.print();
  for (const chaos::Invariant& i : r.invariants) {
    for (const std::string& text : i.broken) {
      std::printf("%s: %s\n", i.name.c_str(), printable(text).c_str());
    }
  }
}

void print(const chaos::Report& r) {
  print_faults(r);
  std::printf("\n");
  print_invariants(r);
  const auto times = chaos::times_to_next_step(r);
  std::printf(
      "\n%d of %d faults, %zu recoveries: median %.2f s, p95 %.2f s to the next step; "
      "%lld steps lost; goodput %.1f %% of %.0f s\n",
      r.happened(), r.planned, r.incidents.size(), chaos::quantile(times, 0.5),
      chaos::quantile(times, 0.95), static_cast<long long>(r.steps_lost()), 100 * r.goodput,
      r.elapsed_s);
  if (r.job_has_ended) std::printf("the job has ended\n");
}

Result<int> run(ChaosArguments& a) {
  chaos::Options& o = a.options;
  if (o.run_dir.empty()) o.run_dir = newest_run_with("control/socket");
  if (o.run_dir.empty()) {
    return Status(Code::kNotFound, "there is no run under runs/; say which RUN_DIR.");
  }
  if (!a.deadline.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const Nanos deadline, parse_duration("--deadline", a.deadline));
    o.deadline_s = to_seconds(deadline);
  }
  if (!o.reference.empty() && !std::ifstream(o.reference)) {
    return Status(Code::kNotFound, "there is no reference " + o.reference);
  }
  o.say = [](const std::string& text) { std::fprintf(stderr, "%s\n", text.c_str()); };
  CONVOY_ASSIGN_OR_RETURN(chaos::Session session, chaos::Session::attach(o));
  CONVOY_ASSIGN_OR_RETURN(const auto plan, plan_of(a, session.target()));
  if (a.dry_run) {
    std::string text;
    for (const auto& fault : plan) text += (text.empty() ? "" : ",\n  ") + to_json(fault);
    std::printf("{\"faults\": [\n  %s]}\n", text.c_str());
    return 0;
  }
  const chaos::Report report = session.run(plan);
  if (a.json) {
    std::printf("%s\n", to_json(report).c_str());
  } else {
    print(report);
  }
  if (!report.all_hold) return kExitBroken;
  if (report.done.empty()) {
    return Status(Code::kUnavailable, "the job ended, or came too far, before the first fault");
  }
  return 0;
}

void add_options(CLI::App* app, const std::shared_ptr<ChaosArguments>& a) {
  chaos::Options& o = a->options;
  app->add_option("RUN_DIR", o.run_dir, "of the job; default: the newest under runs/");
  app->add_option("--seed", a->seed, "draws the faults; default 1");
  app->add_option("--faults", a->faults, "how many; default 10")->check(CLI::Range(1, 100000));
  app->add_option("--every", a->every, "from one to the next, on average; default 10s");
  app->add_option("--scenario", a->scenario, "file with the faults, in place of a seed");
  app->add_flag("--dry-run", a->dry_run, "print the faults, do nothing");
  app->add_option(
      "--checkpoints", o.checkpoints,
      "folder of the job's checkpoints, which `corrupt` may damage; disk_… need a file\n"
      "system of its own mounted there");
  app->add_option("--link", o.link,
                  "network device of this machine that cut_link and slow_link may strike");
  app->add_option("--before-step", o.before_step, "no fault once this step is done");
  app->add_option("--reference", o.reference,
                  "metrics.jsonl of an undisturbed run: numbers must be the same");
  app->add_option("--tolerance", o.tolerance, "relative, of numbers; default 0: the same bits");
  app->add_option("--promise", o.promise.steps,
                  "steps that may be lost when a part of the model has no rank left: the job's\n"
                  "--checkpoint-every; default 1");
  app->add_option("--folder-promise", o.promise.folder_steps,
                  "the same when all memory is lost and the folder damaged; default 100");
  app->add_option("--check-replicas", o.promise.check_steps,
                  "the job's: within so many steps a flipped bit is found; default 16")
      ->check(CLI::NonNegativeNumber);
  app->add_flag("--sharded", o.promise.is_sharded, "the optimizer is (--zero): any rank counts");
  app->add_option("--deadline", a->deadline,
                  "for a step of all ranks; default: twice the job's hang limit, and 65 s");
  app->add_flag("--stay", o.stays, "until the job ends, and see that nothing is left of it");
  app->add_flag("--json", a->json, "the report as one JSON object");
}

}  // namespace

void add_chaos(CLI::App& root, Invocation& invocation) {
  CLI::App* app = root.add_subcommand(
      "chaos", "Do faults to a running job, and check that it stands them as promised");
  const auto arguments = std::make_shared<ChaosArguments>();
  add_options(app, arguments);
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const auto code = run(*arguments);
    invocation.exit_code = code.ok() ? *code : fail(code.status());
  });
}

}  // namespace convoy::cli
