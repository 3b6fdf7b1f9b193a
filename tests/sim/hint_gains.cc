// Whether hints save what they promise: each seeded cluster is simulated as it is and once more
// with the hint's advice followed, and the gain that was predicted from the first run is compared
// with the one that came. Usage: hint_gains [--runs N] [--seed FIRST] [--kind NAME]… [--least
// SHARE] [--verbose] *near*: within 2 points of the step time, or a fifth of the gain.
#include <convoy/sim/cluster.h>
#include <convoy/trace/replay.h>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>

using namespace convoy;

namespace {

constexpr size_t kFirstStep = 6;   // counted: what comes before warms up
constexpr double kNear = 0.2;      // of the gain
constexpr double kSmall = 0.02;    // of the step: differences below it are the jitter's
constexpr double kGainMin = 0.03;  // of the step: what gains less needs no hint

struct Pair {
  sim::Cluster before, after;
};

struct Kind {
  const char* hint;
  std::function<Pair(std::mt19937& random)> make;
  // Where the hint names a number.
  std::function<void(sim::Cluster& after, int setting)> set = [](sim::Cluster&, int) {};
};

void set_buckets(sim::Cluster& after, int setting) {
  after.model.buckets = std::clamp(setting, 1, 256);
}

int between(std::mt19937& random, int low, int high) {
  return std::uniform_int_distribution<>(low, high)(random);
}
double between(std::mt19937& random, double low, double high) {
  return std::uniform_real_distribution<>(low, high)(random);
}
template <class T>
const T& one_of(std::mt19937& random, const std::vector<T>& of) {
  return of[static_cast<size_t>(between(random, 0, static_cast<int>(of.size()) - 1))];
}

sim::Cluster any_cluster(std::mt19937& random, const std::vector<std::string>& meshes) {
  sim::Cluster c;
  c.mesh = one_of(random, meshes);
  c.steps = 24;
  c.model.layers = 32;
  c.model.micro_batches = between(random, 6, 10);
  c.seed = random();
  return c;
}

Pair slow_rank(std::mt19937& random) {
  Pair p{any_cluster(random, {"dp=16", "tp=4,dp=8", "tp=2,pp=4,dp=2"}), {}};
  p.after = p.before;
  sim::Fault fault;
  fault.cls = trace::Class::kSlowCompute;
  fault.rank = between(random, 0, 15);
  fault.factor = between(random, 1.15, 1.6);
  fault.from = 1;
  p.before.faults = {fault};
  return p;
}

Pair long_stage(std::mt19937& random) {
  Pair p{any_cluster(random, {"tp=2,pp=4,dp=2", "pp=4,dp=4", "pp=8,dp=2"}), {}};
  p.after = p.before;
  const int stages = p.before.mesh.find("pp=8") != std::string::npos ? 8 : 4;
  sim::Fault fault;
  fault.cls = trace::Class::kImbalanceStage;
  fault.stage = between(random, 0, stages - 1);
  fault.factor = between(random, 1.2, 1.6);
  fault.from = 1;
  p.before.faults = {fault};
  p.after.model.flops /= (stages - 1 + fault.factor) / stages;  // all work, dealt out evenly
  return p;
}

Pair few_micro_batches(std::mt19937& random) {
  Pair p{any_cluster(random, {"tp=2,pp=4,dp=2", "pp=4,dp=4", "pp=8,dp=2"}), {}};
  p.before.model.micro_batches = between(random, 4, 8);
  p.before.model.micro_batch_size = 2;
  p.after = p.before;
  p.after.model.micro_batches *= 2;
  p.after.model.micro_batch_size = 1;
  return p;
}

Pair one_bucket(std::mt19937& random) {
  Pair p{any_cluster(random, {"dp=16", "dp=32", "tp=4,dp=8"}), {}};
  p.before.model.buckets = 1;
  p.before.model.sharded_optimizer = false;
  p.before.model.micro_batches = between(random, 2, 4);
  p.before.network.internode_bytes_per_s = between(random, 20e9, 60e9);
  p.after = p.before;
  p.after.model.buckets = 32;
  return p;
}

Pair small_buckets(std::mt19937& random) {
  Pair p{any_cluster(random, {"dp=32", "dp=64", "tp=4,dp=16"}), {}};
  p.before.model.hidden = 2048;
  p.before.model.micro_batches = between(random, 2, 4);
  p.before.model.buckets = between(random, 128, 256);
  p.before.network.internode_latency_us = between(random, 30.0, 60.0);
  p.after = p.before;
  p.after.model.buckets = 8;
  return p;
}

const std::vector<Kind> kKinds = {{"imbalance", slow_rank},
                                  {"stage imbalance", long_stage},
                                  {"pipeline bubble", few_micro_batches},
                                  {"lost overlap", one_bucket, set_buckets},
                                  {"small buckets", small_buckets, set_buckets}};

trace::Hint hint_of(const trace::Diagnoser& diagnoser, const std::string& name) {
  for (const trace::Hint& h : diagnoser.hints()) {
    if (h.name == name) return h;
  }
  return {};
}

Result<double> step_time(const sim::Cluster& cluster, const std::string& name, trace::Hint* hint) {
  trace::Registry registry;
  trace::Diagnosing live(registry, {}, true);
  CONVOY_ASSIGN_OR_RETURN(const sim::Outcome outcome, sim::simulate(cluster, registry, live));
  if (hint != nullptr) *hint = hint_of(live.diagnoser(), name);
  const auto& ends = outcome.step_ends;
  return static_cast<double>(ends.back() - ends[kFirstStep]) /
         static_cast<double>(ends.size() - 1 - kFirstStep);
}

struct Row {
  uint64_t runs = 0, near = 0;
  std::vector<double> predicted, came;
};

Status run(uint64_t seed, const Kind& kind, bool verbose, Row& row) {
  std::mt19937 random(static_cast<uint32_t>(seed));
  Pair pair = kind.make(random);
  trace::Hint hint;
  CONVOY_ASSIGN_OR_RETURN(const double before, step_time(pair.before, kind.hint, &hint));
  if (hint.setting > 0) kind.set(pair.after, static_cast<int>(hint.setting));
  const double predicted = hint.gain;
  CONVOY_ASSIGN_OR_RETURN(const double after, step_time(pair.after, kind.hint, nullptr));
  const double came = 1 - after / before;
  if (came < kGainMin) return ok_status();
  const bool is_near = std::abs(predicted - came) <= std::max(kSmall, kNear * came);
  ++row.runs;
  row.near += is_near;
  row.predicted.push_back(predicted), row.came.push_back(came);
  if (verbose) {
    std::printf("seed %llu, %s, %s: predicted %.1f %%, came %.1f %%  (%u)\n",
                static_cast<unsigned long long>(seed), kind.hint, pair.before.mesh.c_str(),
                100 * predicted, 100 * came, hint.setting);
  }
  return ok_status();
}

double median(std::vector<double> of) {
  if (of.empty()) return 0;
  std::ranges::nth_element(of, of.begin() + static_cast<ptrdiff_t>(of.size() / 2));
  return of[of.size() / 2];
}

}  // namespace

int main(int argc, char** argv) {
  int runs = 20;
  uint64_t seed = 1;
  bool verbose = false;
  double least = 0;
  std::vector<std::string> kinds;
  CLI::App app("Compares the gains that hints promise with those that come");
  app.add_option("--runs", runs, "of each kind")->capture_default_str();
  app.add_option("--seed", seed, "of the first run")->capture_default_str();
  app.add_option("--kind", kinds, "only these; more than once");
  app.add_option("--least", least, "fail where less than this share of a kind's runs is near");
  app.add_flag("--verbose", verbose, "tell each run");
  CLI11_PARSE(app, argc, argv);
  bool is_good = true;
  std::vector<std::pair<std::string, Row>> rows;
  for (const Kind& kind : kKinds) {
    if (!kinds.empty() && std::ranges::find(kinds, kind.hint) == kinds.end()) continue;
    Row row;
    for (int i = 0; i < runs; ++i) {
      if (const Status s = run(seed + static_cast<uint64_t>(i), kind, verbose, row); !s.ok()) {
        std::fprintf(stderr, "hint_gains: %s: %s\n", kind.hint, s.to_string().c_str());
        return 1;
      }
    }
    rows.emplace_back(kind.hint, std::move(row));
  }
  std::printf("%-18s %5s  %14s  %11s  %7s\n", "hint", "runs", "predicted, p50", "came, p50",
              "near");
  for (const auto& [name, row] : rows) {
    const double share =
        row.runs == 0 ? 0 : static_cast<double>(row.near) / static_cast<double>(row.runs);
    is_good = is_good && share >= least;
    std::printf("%-18s %5llu  %12.1f %%  %9.1f %%  %5.0f %%\n", name.c_str(),
                static_cast<unsigned long long>(row.runs), 100 * median(row.predicted),
                100 * median(row.came), 100 * share);
  }
  return is_good ? 0 : 1;
}
