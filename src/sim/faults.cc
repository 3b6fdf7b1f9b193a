// Which faults touch a rank in a step, and by how much. Faults of the network are in network.cc,
// those of programs in fault_program.cc, those of the telling in teller.cc.
#include "src/sim/faults.h"

#include <algorithm>

namespace convoy::sim {

using trace::Class;

bool is_network_fault(Class cls) {
  switch (cls) {
    case Class::kSlowNic:
    case Class::kSlowTx:
    case Class::kSlowRx:
    case Class::kSlowLink:
    case Class::kSlowFabric:
    case Class::kLinkFlap:
    case Class::kSlowIntranode:
      return true;
    default:
      return false;
  }
}

Result<Faults> Faults::create(const Cluster& cluster, const Layout& layout) {
  Faults faults(cluster, layout);
  for (size_t i = 0; i < cluster.faults.size(); ++i) {
    CONVOY_ASSIGN_OR_RETURN(
        ActiveFault f, complete(cluster.faults[i], mix(cluster.seed, 77 + i), cluster, layout));
    faults.faults_.push_back(std::move(f));
  }
  return faults;
}

bool Faults::targets(const ActiveFault& f, uint32_t rank) const {
  switch (f.fault.cls) {
    case Class::kSlowHost:
    case Class::kClockStep:
      return layout_->host_of(rank) == static_cast<uint32_t>(f.fault.host);
    case Class::kImbalanceStage:
      return layout_->stage[rank] == static_cast<uint32_t>(f.fault.stage);
    case Class::kStorageStall:
    case Class::kHostPause:
    case Class::kWarmUp:
    case Class::kImbalanceExpert:
    case Class::kImbalanceData:
      return true;
    default:
      return rank == static_cast<uint32_t>(f.fault.rank);
  }
}

namespace {

// Which data replica a rank belongs to: its sequences are as long as those of its peers there.
uint64_t replica_of(const Layout& layout, uint32_t rank) {
  const int r = static_cast<int>(rank);
  return static_cast<uint64_t>(layout.mesh.coordinate(r, "dp")) * 4096 +
         static_cast<uint64_t>(layout.mesh.coordinate(r, "ep"));
}

double share(uint64_t hash) {
  return static_cast<double>(hash >> 11) * 0x1p-53;
}

}  // namespace

void Faults::apply(const ActiveFault& f, uint32_t rank, uint32_t step, Effects& to) const {
  const auto factor = static_cast<float>(f.fault.factor);
  const bool occurs = (step - f.fault.from) % std::max(1U, f.fault.every) == 0;
  switch (f.fault.cls) {
    case Class::kSlowCompute:
    case Class::kSlowHost:
    case Class::kImbalanceStage:
      to.compute *= factor;
      break;
    case Class::kSlowComputePeriodic:
      to.periodic = true;
      break;
    case Class::kWarmUp: {
      const float left = 1 - static_cast<float>(step - f.fault.from) /
                                 static_cast<float>(f.fault.until - f.fault.from + 1);
      to.compute *= 1 + (factor - 1) * left;
      to.launch *= 1 + (factor - 1) * left;
      to.warm_up = static_cast<Time>((f.fault.factor - 1) * left * 50e6);
      break;
    }
    case Class::kDataLoaderStall:
    case Class::kStorageStall:
      if (occurs) to.data_stall += nanoseconds(f.fault.seconds);
      break;
    case Class::kHostPause:
      if (share(mix(f.seed ^ rank, step)) * f.fault.every < 1) {
        to.pause = nanoseconds(f.fault.seconds);
        to.pause_at = static_cast<uint32_t>(mix(f.seed ^ step, rank) % 6);
      }
      break;
    case Class::kHostLaunchBound:
      to.launch *= factor;
      break;
    case Class::kCheckpointStall:
      to.save_stall += nanoseconds(f.fault.seconds);
      break;
    case Class::kImbalanceExpert: {
      const uint32_t group = layout_->group_of[kEp][rank];
      const uint32_t size = layout_->groups[group].size();
      const uint64_t hot = mix(f.seed ^ group, step / std::max(1U, f.fault.every)) % size;
      to.busy_experts = hot == layout_->position[kEp][rank];
      to.expert *= to.busy_experts
                       ? factor
                       : (static_cast<float>(size) - factor) / static_cast<float>(size - 1);
      to.expert = std::max(to.expert, 0.1F);
      break;
    }
    case Class::kImbalanceData: {
      const double u = share(mix(f.seed ^ replica_of(*layout_, rank), step));
      to.tokens = static_cast<float>(1 + (f.fault.factor - 1) * u * u);
      to.compute *= to.tokens;
      break;
    }
    default:
      break;
  }
}

Effects Faults::effects(uint32_t rank, uint32_t step) const {
  Effects effects;
  for (const ActiveFault& f : faults_) {
    if (f.in(step) && targets(f, rank)) apply(f, rank, step, effects);
  }
  return effects;
}

float Faults::periodic(uint32_t rank, uint32_t step, Time now) const {
  float factor = 1;
  for (const ActiveFault& f : faults_) {
    if (f.fault.cls != Class::kSlowComputePeriodic || !f.in(step) || !targets(f, rank)) continue;
    const Time period = nanoseconds(f.fault.on_s + f.fault.off_s);
    if ((now - f.onset) % period < nanoseconds(f.fault.on_s)) {
      factor *= static_cast<float>(f.fault.factor);
    }
  }
  return factor;
}

bool Faults::changes_program(uint32_t rank, uint32_t step) const {
  return std::ranges::any_of(faults_, [&](const ActiveFault& f) {
    return is_program_fault(f.fault.cls) &&
           (is_persistent(f.fault.cls) ? f.in(step) : step == f.fault.from) &&
           std::ranges::find(f.ranks, rank) != f.ranks.end();
  });
}

void Faults::change_program(Program& program, uint32_t rank, uint32_t step,
                            Catalog& catalog) const {
  for (const ActiveFault& f : faults_) {
    const bool now = is_persistent(f.fault.cls) ? f.in(step) : step == f.fault.from;
    if (is_program_fault(f.fault.cls) && now && std::ranges::find(f.ranks, rank) != f.ranks.end()) {
      apply_to_program(f, rank, *layout_, catalog, program);
    }
  }
}

void Faults::note_begin(uint32_t rank, uint32_t step, Time now) {
  for (ActiveFault& f : faults_) {
    if (f.onset != kNever && f.over == kNever && f.fault.until != 0 && step > f.fault.until) {
      f.over = now;
    }
    if (f.onset != kNever || is_program_fault(f.fault.cls) || !f.in(step)) continue;
    const bool target = f.fault.cls == Class::kSlowFabric
                            ? layout_->host_of(rank) == static_cast<uint32_t>(f.fault.host)
                            : targets(f, rank);
    if (!target) continue;
    if (f.fault.cls == Class::kCheckpointStall && step % cluster_->checkpoint_every != 0) continue;
    f.onset = now;
    f.step = step;
  }
}

void Faults::note_trap(uint32_t rank, uint32_t step, Time now) {
  for (ActiveFault& f : faults_) {
    if (f.onset == kNever && is_program_fault(f.fault.cls) && f.in(step) &&
        std::ranges::find(f.ranks, rank) != f.ranks.end()) {
      f.onset = now;
      f.step = step;
    }
  }
}

double Faults::busiest_experts() const {
  double most = 1;
  for (const ActiveFault& f : faults_) {
    if (f.fault.cls == Class::kImbalanceExpert) most = std::max(most, f.fault.factor);
  }
  return most;
}

}  // namespace convoy::sim
