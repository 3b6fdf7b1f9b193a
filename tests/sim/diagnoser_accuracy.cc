// How often the Diagnoser is right: seeded runs of each class and of the controls, scored against
// what was injected, beside what simpler tools make of the same events.
// Usage: diagnoser_accuracy [--runs N] [--jobs N] [--seed FIRST] [--class NAME]… [--max-ranks N]
//                           [--no-controls] [--without PART]… [--verbose] [--json FILE]
//                           [--bench]
#include "tests/sim/baselines.h"
#include "tests/sim/scoring.h"
#include <convoy/sim/scenario.h>
#include <convoy/trace/diagnose.h>

#include <CLI/CLI.hpp>
#include <nlohmann/json.hpp>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <fstream>
#include <functional>
#include <mutex>
#include <set>
#include <thread>

using namespace convoy;
using namespace convoy::sim;
using Json = nlohmann::ordered_json;
using trace::Class;

namespace {

constexpr int64_t kLookEvery = 500'000'000;  // ns of the root's clock

struct Options {
  int runs = 100, jobs = 1;
  uint64_t seed = 1;
  std::vector<std::string> classes;
  ScenarioLimits limits;
  bool no_controls = false, on_time = false, verbose = false, bench = false;
  std::string json;
  std::set<std::string> without;  // of kParts
};

// What other backends and other tools may not know of.
const std::set<std::string> kParts = {"links",  "counters", "starts", "spans",
                                      "states", "mesh",     "clocks"};

trace::Batch thinned(trace::Batch batch, const std::set<std::string>& without,
                     const trace::Registry& registry) {
  std::erase_if(batch.counters, [&](const trace::CounterEvent& c) {
    const bool is_link = registry.names()[c.name].starts_with("link ");
    return without.contains(is_link ? "links" : "counters");
  });
  if (without.contains("starts")) {
    for (trace::Operation& o : batch.operations) o.started = 0;
  }
  if (without.contains("spans")) {
    std::erase_if(batch.spans, [&](const trace::SpanEvent& s) {
      return registry.names()[s.name] != trace::names::kStep;
    });
  }
  if (without.contains("states")) batch.state.reset();
  return batch;
}

// Feeds a diagnoser as an aggregator would, looking some times a second.
class Live : public trace::Sink {
 public:
  Live(trace::Registry& registry, Baselines& baselines, const std::set<std::string>& without)
      : registry_(registry), diagnoser_(registry), baselines_(baselines), without_(without) {}
  void job(const trace::JobInfo& job) override {
    trace::JobInfo told = job;
    if (without_.contains("mesh")) told.mesh.clear();
    diagnoser_.job(told);
    baselines_.job(job);
  }
  void batch(const trace::Batch& batch) override {
    if (batch.received >= next_) {
      diagnoser_.diagnose(batch.received);
      next_ = batch.received + kLookEvery;
    }
    if (without_.empty()) {
      diagnoser_.batch(batch);
    } else {
      diagnoser_.batch(thinned(batch, without_, registry_));
    }
    baselines_.batch(batch);
  }
  void clock(const trace::ClockSample& sample) override {
    if (!without_.contains("clocks")) diagnoser_.clock(sample);
    baselines_.clock(sample);
  }
  const std::vector<trace::Verdict>& finish(int64_t now) {
    diagnoser_.diagnose(now);
    return diagnoser_.verdicts();
  }

 private:
  const trace::Registry& registry_;
  trace::Diagnoser diagnoser_;
  Baselines& baselines_;
  const std::set<std::string>& without_;
  int64_t next_ = 0;
};

struct Row {
  std::string name = {};
  uint64_t runs = 0, found = 0, culprit = 0, top2 = 0, extra = 0;
  std::vector<double> seconds = {}, steps = {};
  std::vector<double> after_deadline = {};  // of what had one
  std::array<uint64_t, kBaselines> baselines{};
};

void add(Row& to, const Row& from) {
  to.runs += from.runs, to.found += from.found, to.culprit += from.culprit;
  to.top2 += from.top2, to.extra += from.extra;
  std::ranges::copy(from.seconds, std::back_inserter(to.seconds));
  std::ranges::copy(from.steps, std::back_inserter(to.steps));
  std::ranges::copy(from.after_deadline, std::back_inserter(to.after_deadline));
  for (size_t b = 0; b < kBaselines; ++b) to.baselines[b] += from.baselines[b];
}

double quantile(std::vector<double> of, double q) {
  if (of.empty()) return 0;
  std::ranges::sort(of);
  return of[std::min(of.size() - 1, static_cast<size_t>(q * static_cast<double>(of.size())))];
}

std::string describe(const trace::Culprit& c) {
  std::string text;
  for (const uint32_t r : c.ranks) text += " " + std::to_string(r);
  for (const std::string& h : c.hosts) text += " " + h;
  for (const auto& [a, b] : c.links) text += " " + std::to_string(a) + ">" + std::to_string(b);
  if (c.stage >= 0) text += " stage " + std::to_string(c.stage);
  return text;
}

void tell_miss(uint64_t seed, const Scenario& s, const Outcome& outcome,
               const std::vector<trace::Verdict>& verdicts) {
  static std::mutex mutex;
  const std::lock_guard lock(mutex);
  std::printf("seed %llu, %s:\n", static_cast<unsigned long long>(seed), s.cluster.mesh.c_str());
  for (const Truth& t : outcome.truths) {
    std::printf("  truth   %s%s\n", fault_name(t.cls).c_str(), describe(t.culprit).c_str());
  }
  for (const trace::Verdict& v : verdicts) {
    std::printf(
        "  verdict %s%s, confidence %.2f, %+.1f s: %s\n", fault_name(v.cls).c_str(),
        describe(v.culprit).c_str(), v.confidence,
        outcome.truths.empty() ? 0.0 : static_cast<double>(v.told - outcome.truths[0].onset) * 1e-9,
        v.summary.c_str());
    for (const trace::Evidence& e : v.evidence) {
      std::printf("          rank %u: %s\n", e.rank, e.text.c_str());
    }
  }
}

// One run; adds to its class's row and, of a second fault, to `seconds`.
Status run(uint64_t seed, const Scenario& s, const Options& options, Row& row, Row& seconds) {
  trace::Registry registry;
  Baselines baselines(registry);
  Live live(registry, baselines, options.without);
  Cluster cluster = s.cluster;
  if (options.on_time) cluster.telemetry.late_share = 0;
  CONVOY_ASSIGN_OR_RETURN(const Outcome outcome, simulate(cluster, registry, live));
  const bool warm_up = !outcome.truths.empty() && outcome.truths[0].cls == Class::kWarmUp;
  const std::vector<trace::Verdict> verdicts = counted(live.finish(outcome.end), warm_up);
  std::vector<Truth> truths;
  for (const Truth& t : outcome.truths) {
    if (warm_up || t.cls != Class::kWarmUp) truths.push_back(t);
  }
  ++row.runs;
  if (verdicts.size() > truths.size()) row.extra += verdicts.size() - truths.size();
  const Hosts hosts{static_cast<uint32_t>(s.cluster.ranks_per_host), outcome.hosts};
  bool good = verdicts.size() == truths.size();
  for (size_t i = 0; i < truths.size(); ++i) {
    Row& to = i == 0 ? row : seconds;
    if (i > 0) ++to.runs;
    const Score score = sim::score(truths[i], verdicts, truths.size(), outcome, hosts);
    to.found += score.found;
    to.culprit += score.culprit;
    to.top2 += score.second_best;
    good = good && score.found && score.culprit;
    if (!score.found) continue;
    to.seconds.push_back(score.latency_s);
    to.steps.push_back(score.latency_steps);
    if (score.after_deadline_s) to.after_deadline.push_back(*score.after_deadline_s);
  }
  for (size_t b = 0; b < kBaselines; ++b) {
    const trace::Culprit blamed{.ranks = baselines.blame(static_cast<Baseline>(b), outcome.hung),
                                .hosts = {},
                                .links = {},
                                .groups = {}};
    // Of controls: alarms. Of the rest: the right ranks, where anybody is to blame.
    const bool hit = truths.empty()
                         ? !blamed.ranks.empty()
                         : !blamed.ranks.empty() && same_culprit(truths[0], blamed, hosts);
    row.baselines[b] += hit;
  }
  if (options.verbose && !good) tell_miss(seed, s, outcome, verdicts);
  return ok_status();
}

void print_share(uint64_t hits, uint64_t of) {
  const Interval i = wilson(hits, of);
  std::printf("  %5.1f %% [%4.1f, %5.1f]",
              of == 0 ? 0 : 100.0 * static_cast<double>(hits) / static_cast<double>(of),
              100 * i.low, 100 * i.high);
}

void print(const std::vector<Row>& rows) {
  std::printf("%-22s %4s  %-21s  %-21s  %9s %9s %8s %8s  %5s   %s\n", "class", "runs",
              "class top-1 [95 %]", "culprit [95 %]", "p50 s", "p95 s", "p50 steps", "late p95",
              "extra", "baselines: right ranks, %");
  for (const Row& r : rows) {
    std::printf("%-22s %4llu", r.name.c_str(), static_cast<unsigned long long>(r.runs));
    print_share(r.found, r.runs);
    print_share(r.culprit, r.runs);
    std::printf("  %9.2f %9.2f %8.0f", quantile(r.seconds, 0.5), quantile(r.seconds, 0.95),
                quantile(r.steps, 0.5));
    if (r.after_deadline.empty()) {
      std::printf(" %8s", "");
    } else {
      std::printf(" %8.2f", quantile(r.after_deadline, 0.95));
    }
    std::printf("  %5llu  ", static_cast<unsigned long long>(r.extra));
    for (const uint64_t b : r.baselines) {
      std::printf(" %5.1f",
                  r.runs == 0 ? 0 : 100.0 * static_cast<double>(b) / static_cast<double>(r.runs));
    }
    std::printf("\n");
  }
}

Json to_json(const Row& r) {
  const Interval found = wilson(r.found, r.runs), culprit = wilson(r.culprit, r.runs);
  Json json = {{"class", r.name},
               {"runs", r.runs},
               {"class_hits", r.found},
               {"class_interval", {found.low, found.high}},
               {"class_top2_hits", r.top2},
               {"culprit_hits", r.culprit},
               {"culprit_interval", {culprit.low, culprit.high}},
               {"latency_p50_s", quantile(r.seconds, 0.5)},
               {"latency_p95_s", quantile(r.seconds, 0.95)},
               {"latency_p50_steps", quantile(r.steps, 0.5)},
               {"latency_p95_steps", quantile(r.steps, 0.95)},
               {"with_deadline", r.after_deadline.size()},
               {"after_deadline_p50_s", quantile(r.after_deadline, 0.5)},
               {"after_deadline_p95_s", quantile(r.after_deadline, 0.95)},
               {"extra_verdicts", r.extra}};
  for (size_t b = 0; b < kBaselines; ++b) json["baselines"][kBaselineNames[b]] = r.baselines[b];
  return json;
}

// As `make bench` reads it: lines of all classes together, and of the controls; the peer is the
// simple tool that blames the right ranks most often (or raises fewest alarms).
void print_bench(const std::vector<Row>& faults, const std::vector<Row>& controls) {
  const auto line = [](const char* which, const char* metric, uint64_t hits, uint64_t of,
                       uint64_t peer) {
    const Interval i = wilson(hits, of);
    const auto percent = [&](uint64_t n) {
      return 100.0 * static_cast<double>(n) / static_cast<double>(of);
    };
    const Json json = {{"bench", "trace.accuracy"}, {"case", which}, {"metric", metric},
                       {"value", percent(hits)},    {"unit", "%"},   {"low", 100 * i.low},
                       {"high", 100 * i.high},      {"runs", of},    {"peer_value", percent(peer)}};
    std::printf("%s\n", json.dump().c_str());
  };
  Row all, silent;
  for (const Row& r : faults) add(all, r);
  for (const Row& r : controls) add(silent, r);
  if (all.runs != 0) {
    line("class", "right", all.found, all.runs, 0);
    line("culprit", "right", all.culprit, all.runs, std::ranges::max(all.baselines));
  }
  if (!all.after_deadline.empty()) {
    const Json json = {{"bench", "trace.accuracy"},
                       {"case", "stuck"},
                       {"metric", "after_deadline_p95"},
                       {"value", quantile(all.after_deadline, 0.95)},
                       {"unit", "s"},
                       {"runs", all.after_deadline.size()}};
    std::printf("%s\n", json.dump().c_str());
  }
  if (silent.runs != 0) {
    line("controls", "false_alarms", std::min(silent.extra, silent.runs), silent.runs,
         std::ranges::min(silent.baselines));
  }
}

// One run of one row, on any thread.
struct Task {
  Row* row;
  uint64_t seed;
  std::function<Scenario()> scenario;
  Row own = {}, second = {};
  Status status = ok_status();
};

void run_tasks(std::vector<Task>& tasks, const Options& options) {
  std::atomic<size_t> next{0};
  const auto work = [&] {
    for (size_t i = next++; i < tasks.size(); i = next++) {
      Task& t = tasks[i];
      t.status = run(t.seed, t.scenario(), options, t.own, t.second);
    }
  };
  std::vector<std::jthread> threads;
  for (int i = 1; i < options.jobs; ++i) threads.emplace_back(work);
  work();
}

Status run_all(const Options& options, std::vector<Row>& faults, std::vector<Row>& controls) {
  std::vector<Class> classes;
  for (const std::string& name : options.classes) {
    CONVOY_ASSIGN_OR_RETURN(const Fault fault, parse_fault(name));
    classes.push_back(fault.cls);
  }
  for (size_t i = 1; classes.size() < trace::kClasses - 1 && options.classes.empty(); ++i) {
    classes.push_back(static_cast<Class>(i));
  }
  for (const Class cls : classes) faults.push_back({.name = fault_name(cls)});
  for (int c = 0; c < kControls && !options.no_controls; ++c) {
    controls.push_back({.name = name_of(static_cast<Control>(c))});
  }
  std::vector<Task> tasks;
  for (int i = 0; i < options.runs; ++i) {
    const uint64_t seed = options.seed + static_cast<uint64_t>(i);
    for (size_t c = 0; c < classes.size(); ++c) {
      tasks.push_back({&faults[c], seed, [&options, seed, cls = classes[c]] {
                         return random_scenario(seed, cls, options.limits);
                       }});
    }
    for (size_t c = 0; c < controls.size(); ++c) {
      tasks.push_back({&controls[c], seed, [&options, seed, c] {
                         return random_control(seed, static_cast<Control>(c), options.limits);
                       }});
    }
  }
  run_tasks(tasks, options);
  Row second{.name = "(second faults)"};
  for (Task& t : tasks) {
    CONVOY_RETURN_IF_ERROR(
        std::move(t.status).with_context(t.row->name + ", seed " + std::to_string(t.seed)));
    add(*t.row, t.own);
    add(second, t.second);
  }
  faults.push_back(std::move(second));
  return ok_status();
}

void print_controls(const std::vector<Row>& rows) {
  std::printf("\n%-22s %4s  %12s   %s\n", "control", "runs", "false alarms",
              "baselines: alarms in so many runs");
  for (const Row& r : rows) {
    std::printf("%-22s %4llu  %12llu  ", r.name.c_str(), static_cast<unsigned long long>(r.runs),
                static_cast<unsigned long long>(r.extra));
    for (const uint64_t b : r.baselines) std::printf(" %5llu", static_cast<unsigned long long>(b));
    std::printf("\n");
  }
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app("Scores the diagnosis on simulated clusters");
  app.add_option("--runs", options.runs, "of each class")->capture_default_str();
  app.add_option("--jobs", options.jobs, "runs at a time")->capture_default_str();
  app.add_option("--seed", options.seed, "of the first run")->capture_default_str();
  app.add_option("--class", options.classes, "only these; more than once");
  app.add_option("--min-ranks", options.limits.ranks_min)->capture_default_str();
  app.add_option("--max-ranks", options.limits.ranks_max)->capture_default_str();
  app.add_option("--second-share", options.limits.second_share, "of runs with two faults");
  app.add_flag("--no-controls", options.no_controls);
  app.add_option("--without", options.without,
                 "as of tools that don't tell of these; more than once")
      ->check(CLI::IsMember(kParts));
  app.add_flag("--on-time", options.on_time, "no batch comes late");
  app.add_flag("--bench", options.bench, "also lines for make bench");
  app.add_flag("--verbose", options.verbose, "tell each run that is not right");
  app.add_option("--json", options.json, "a file for the figures");
  CLI11_PARSE(app, argc, argv);
  std::vector<Row> faults, controls;
  if (const Status status = run_all(options, faults, controls); !status.ok()) {
    std::fprintf(stderr, "diagnoser_accuracy: %s\n", status.to_string().c_str());
    return 1;
  }
  print(faults);
  if (!controls.empty()) print_controls(controls);
  if (options.bench) print_bench(faults, controls);
  if (!options.json.empty()) {
    Json json = {
        {"first_seed", options.seed}, {"classes", Json::array()}, {"controls", Json::array()}};
    for (const Row& r : faults) json["classes"].push_back(to_json(r));
    for (const Row& r : controls) json["controls"].push_back(to_json(r));
    std::ofstream(options.json) << json.dump(1) << "\n";
  }
  return 0;
}
