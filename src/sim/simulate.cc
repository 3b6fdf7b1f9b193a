// A run from its first to its last step: generations of the job, steps, hangs, and the truth.
#include "src/sim/teller.h"

#include <algorithm>

namespace convoy::sim {
namespace {

using trace::Class;

constexpr uint32_t kStepsMax = 1'000'000;
constexpr Time kRestart = 8 * kSecond;  // between the generations of a job

Status check(const Cluster& c) {
  const auto share = [](double x) { return x >= 0 && x <= 1; };
  const auto small = [](double x) { return x >= 0 && x <= 1; };
  if (c.steps < 1 || c.steps > kStepsMax) {
    return {Code::kInvalidArgument, "a run has 1 to 1000000 steps"};
  }
  if (!small(c.compute_jitter) || !small(c.network_jitter) || !small(c.static_jitter)) {
    return {Code::kInvalidArgument, "jitter is a share from 0 to 1"};
  }
  if (!share(c.telemetry.loss) || !share(c.telemetry.late_share) ||
      !(c.telemetry.period_s >= 0.001) || !(c.telemetry.late_s >= 0) || c.telemetry.late_s > 3600 ||
      c.telemetry.period_s > 3600) {
    return {Code::kInvalidArgument,
            "shares of lost events and late batches are from 0 to 1, their period is 1 ms to 1 h"};
  }
  if (!(c.network.intranode_bytes_per_s >= 1e3) || !(c.network.internode_bytes_per_s >= 1e3) ||
      !(c.network.intranode_latency_us >= 0) || !(c.network.internode_latency_us >= 0)) {
    return {Code::kInvalidArgument,
            "bandwidths must be 1000 bytes/s or more, latencies not negative"};
  }
  if (!(c.after_hang_s >= 0 && c.after_hang_s <= 86400) ||
      !(c.more_work > 0 && c.more_work < 100)) {
    return {Code::kInvalidArgument, "after_hang_s is 0 to a day, more_work a factor"};
  }
  return ok_status();
}

trace::JobInfo job_info(const Layout& layout, uint64_t generation) {
  trace::JobInfo info{
      .job = "simulated", .generation = generation, .world_size = layout.ranks, .mesh = {}};
  for (const MeshDim& dim : layout.mesh.dims()) {
    info.mesh.push_back({dim.name, static_cast<uint32_t>(dim.size)});
  }
  return info;
}

// Faults of programs need a place there.
Status try_programs(const Cluster& cluster, const Layout& layout, const ProgramBuilder& builder,
                    Catalog& catalog, const Faults& faults) {
  for (const ActiveFault& f : faults.all()) {
    if (!is_program_fault(f.fault.cls)) continue;
    for (const uint32_t rank : f.ranks) {
      Program program = builder.build(layout.stage[rank], {});
      if (!apply_to_program(f, rank, layout, catalog, program)) {
        return {Code::kInvalidArgument, "fault " + fault_name(f.fault.cls) + ": what rank " +
                                            std::to_string(rank) + " does in " + cluster.mesh +
                                            " has no place for it"};
      }
    }
  }
  return ok_status();
}

class Run {
 public:
  Run(const Cluster& cluster, trace::Registry& registry, trace::Sink& sink)
      : cluster_(cluster), registry_(registry), sink_(sink) {}

  // Steps first … last of one generation, from `begin` on. Sets `now_` to its end.
  Status generation(const std::string& mesh, uint64_t number, uint32_t steps, bool with_faults) {
    Cluster cluster = cluster_;
    cluster.mesh = mesh;
    cluster.seed = mix(cluster.seed, number);
    if (!with_faults) cluster.faults.clear();
    CONVOY_ASSIGN_OR_RETURN(const Layout layout,
                            make_layout(mesh, cluster.ranks_per_host, number, registry_));
    CONVOY_ASSIGN_OR_RETURN(Faults faults, Faults::create(cluster, layout));
    Catalog catalog(layout, registry_);
    CONVOY_ASSIGN_OR_RETURN(
        const ProgramBuilder builder,
        ProgramBuilder::create(cluster, layout, catalog, faults.busiest_experts()));
    CONVOY_RETURN_IF_ERROR(try_programs(cluster, layout, builder, catalog, faults));
    const Fabric fabric(cluster, layout, catalog, faults);
    Engine engine(cluster, layout, catalog, builder, faults, fabric, registry_, now_);
    outcome_.hosts = layout.hosts;
    sink_.job(job_info(layout, number));
    Teller teller(cluster, layout, engine, fabric, faults, registry_, sink_, outcome_, number,
                  now_);
    for (uint32_t step = 1; step <= steps && !outcome_.hung; ++step) {
      outcome_.hung = !engine.run_step(step);
      if (outcome_.hung) break;
      teller.tell_until(engine.known_until());
      end_of_step(engine);
    }
    if (outcome_.hung) hang(cluster, engine, teller, faults);
    // Ranks end; what they have done since their last batch comes with a last one.
    teller.tell_until(
        now_ + (outcome_.hung ? 0 : nanoseconds(cluster.telemetry.period_s) + 10 * kMillisecond));
    teller.finish();
    add_truths(faults);
    return ok_status();
  }

  void restart() { now_ += kRestart; }

  Outcome take() {
    outcome_.begin = HostClocks::root(0);
    outcome_.end = HostClocks::root(now_);
    return std::move(outcome_);
  }
  bool hung() const { return outcome_.hung; }

 private:
  void end_of_step(const Engine& engine) {
    for (const Rank& r : engine.ranks()) now_ = std::max(now_, r.host);
    outcome_.step_ends.push_back(HostClocks::root(now_));
  }

  void hang(const Cluster& cluster, Engine& engine, Teller& teller, const Faults& faults) {
    engine.settle();
    Time since = now_;
    for (const ActiveFault& f : faults.all()) {
      if (is_program_fault(f.fault.cls) && f.onset != kNever) since = std::max(since, f.onset);
    }
    now_ = since + nanoseconds(cluster.after_hang_s);
    teller.tell_until(now_);
  }

  void add_truths(const Faults& faults) {
    for (const ActiveFault& f : faults.all()) {
      if (f.onset == kNever || HostClocks::root(f.onset) > HostClocks::root(now_)) continue;
      outcome_.truths.push_back({f.fault.cls, f.culprit, HostClocks::root(f.onset), f.step});
    }
  }

  const Cluster& cluster_;
  trace::Registry& registry_;
  trace::Sink& sink_;
  Outcome outcome_;
  Time now_ = 0;
};

}  // namespace

Status can_be(const Cluster& cluster) {
  CONVOY_RETURN_IF_ERROR(check(cluster));
  trace::Registry registry;
  CONVOY_ASSIGN_OR_RETURN(const Layout layout,
                          make_layout(cluster.mesh, cluster.ranks_per_host, 1, registry));
  CONVOY_ASSIGN_OR_RETURN(Faults faults, Faults::create(cluster, layout));
  Catalog catalog(layout, registry);
  CONVOY_ASSIGN_OR_RETURN(
      const ProgramBuilder builder,
      ProgramBuilder::create(cluster, layout, catalog, faults.busiest_experts()));
  return try_programs(cluster, layout, builder, catalog, faults);
}

Result<Outcome> simulate(const Cluster& cluster, trace::Registry& registry, trace::Sink& sink) {
  CONVOY_RETURN_IF_ERROR(check(cluster));
  Run run(cluster, registry, sink);
  const bool resized = cluster.resize_at != 0 && cluster.resize_at < cluster.steps;
  const uint32_t first = resized ? cluster.resize_at : cluster.steps;
  CONVOY_RETURN_IF_ERROR(run.generation(cluster.mesh, 1, first, true));
  if (resized && !run.hung()) {
    run.restart();
    CONVOY_RETURN_IF_ERROR(run.generation(cluster.resize_mesh, 2, cluster.steps - first, false));
  }
  return run.take();
}

}  // namespace convoy::sim
