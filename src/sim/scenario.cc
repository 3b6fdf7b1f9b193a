// Draws clusters and faults. Sizes of the model follow from times: a step of half a second to one
// and a half, in which communication has a share as in practice; severities follow from what they
// cost of a step, from where they just show to where they hurt.
#include "src/sim/random.h"
#include <convoy/sim/scenario.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <vector>

namespace convoy::sim {
namespace {

using trace::Class;

constexpr uint64_t kDrawsMax = 100;

struct Shape {
  const char* name;
  std::vector<int> tp, cp, ep, pp;
};

const std::vector<Shape>& shapes() {
  static const std::vector<Shape> all{
      {"dp", {1}, {1}, {1}, {1}},
      {"tp×dp", {4, 8}, {1}, {1}, {1}},
      {"pp×dp", {1}, {1}, {1}, {4, 8}},
      {"tp×pp×dp", {4, 8}, {1}, {1}, {2, 4, 8}},
      {"tp×cp×dp", {4}, {2, 4}, {1}, {1}},
      {"ep×dp", {1}, {1}, {4, 8}, {1}},
      {"tp×ep×pp×dp", {4}, {1}, {2, 4}, {2, 4}},
      {"tp×cp×pp×dp", {4, 8}, {2}, {1}, {2, 4}},
  };
  return all;
}

bool fits(const Shape& shape, Class cls) {
  switch (cls) {
    case Class::kImbalanceStage:
    case Class::kMessageUnmatched:
      return shape.pp[0] > 1;
    case Class::kImbalanceExpert:
      return shape.ep[0] > 1;
    case Class::kMismatchRoot:
    case Class::kSlowIntranode:
      return shape.tp[0] > 1;
    case Class::kDeadlockCycle:
      return shape.tp[0] > 1 || shape.pp[0] > 1;
    case Class::kDesyncOrder:
      return shape.tp[0] > 1 || shape.pp[0] == 1;
    default:
      return true;
  }
}

template <class T>
T pick(Random& random, const std::vector<T>& from) {
  return from[random.below(from.size())];
}

bool hangs(Class cls) {
  return cls >= Class::kDesyncOrder && cls <= Class::kMessageUnmatched &&
         cls != Class::kMismatchDtype && cls != Class::kMismatchReduction;
}

// Times of a step, in s, that severities go by.
struct Budget {
  double compute = 0;  // of all micro-batches
  double data = 0;     // reducing gradients
  double hidden = 0;   // of that, behind the last backward
  double tp = 0;
};

class Draw {
 public:
  Draw(uint64_t seed, const ScenarioLimits& limits) : random_(mix(seed, 0xd2a3)), limits_(limits) {
    scenario_.cluster.seed = mix(seed, 1);
  }

  Scenario fault(Class cls) {
    layout(cls);
    model();
    surroundings(hangs(cls) ? 14 : 36);
    Cluster& c = scenario_.cluster;
    if (cls == Class::kCheckpointStall) c.checkpoint_every = 6 + random_.below(5);
    if (cls == Class::kSlowComputePeriodic || cls == Class::kLinkFlap) c.steps = 60;
    c.faults.push_back(severity(cls));
    if (cls != Class::kNotJoined && random_.chance(limits_.second_share)) second(cls);
    decoys(cls);
    return scenario_;
  }

  Scenario control(Control control) {
    layout(Class::kUnknown);
    model();
    surroundings(36);
    Cluster& c = scenario_.cluster;
    switch (control) {
      case Control::kHealthy:
        break;
      case Control::kJitter:
        c.compute_jitter = c.network_jitter = 0.15;
        break;
      case Control::kLargerBatch:
        c.more_work_from = 12 + random_.below(10);
        c.more_work = random_.uniform(1.3, 2);
        break;
      case Control::kResize:
        c.resize_at = 12 + random_.below(10);
        c.resize_mesh = mesh(std::max(2, dp_ - 1 - static_cast<int>(random_.below(2))));
        break;
      case Control::kEvaluation:
        c.evaluate_every = 5 + random_.below(8);
        break;
      case Control::kEventLoss:
        c.telemetry.loss = 0.01;
        break;
    }
    return scenario_;
  }

 private:
  std::string mesh(int dp) const {
    std::string text;
    const auto add = [&](const char* name, int size) {
      if (size > 1)
        text += (text.empty() ? "" : ",") + std::string(name) + "=" + std::to_string(size);
    };
    add("tp", tp_);
    add("cp", cp_);
    add("ep", ep_);
    add("dp", dp);
    add("pp", pp_);
    return text;
  }

  void layout(Class cls) {
    std::vector<Shape> possible;
    for (const Shape& s : shapes()) {
      if (fits(s, cls)) possible.push_back(s);
    }
    const Shape shape = pick(random_, possible);
    scenario_.layout = shape.name;
    tp_ = pick(random_, shape.tp);
    cp_ = pick(random_, shape.cp);
    ep_ = pick(random_, shape.ep);
    pp_ = pick(random_, shape.pp);
    // Small clusters more often than large ones; each decade gets its share.
    const double low = std::log(limits_.ranks_min), high = std::log(limits_.ranks_max);
    const double u = random_.uniform();
    const double ranks = std::exp(low + (high - low) * u * u);
    const int inner = tp_ * cp_ * ep_ * pp_;
    // Rings over data go from host to host.
    const int least = std::max(limits_.ranks_min / inner, 16 / (tp_ * cp_ * ep_));
    dp_ = std::max({4, least, static_cast<int>(ranks / inner)});
    dp_ = std::min(dp_, std::max(4, limits_.ranks_max / inner));
    scenario_.cluster.mesh = mesh(dp_);
  }

  void model() {
    Cluster& c = scenario_.cluster;
    Model& m = c.model;
    m.layers = 8 * pp_;
    m.micro_batches = pp_ > 1 ? pp_ * (1 + static_cast<int>(random_.below(2)))
                              : 2 + static_cast<int>(random_.below(4));
    m.tp_collectives = 1 + static_cast<int>(random_.below(2));
    m.buckets = 2 + static_cast<int>(random_.below(3));
    m.launch_share = random_.uniform(0.25, 0.45);
    if (pp_ > 1) {
      c.schedule = random_.chance(0.3) ? "interleaved" : random_.chance(0.2) ? "gpipe" : "1f1b";
      c.chunks = c.schedule == "interleaved" ? 2 : 1;
    }
    c.network.hosts_per_leaf = random_.chance(0.5) ? 2 : 4;
    budget_.compute = random_.uniform(0.4, 1.1);
    budget_.data = budget_.compute * random_.uniform(0.08, 0.2);
    // Behind the last backward, and, but for the first stage, behind those of earlier stages.
    const double backward = budget_.compute * 2 / 3 / m.micro_batches;
    budget_.hidden = std::min(budget_.data / 2, backward) + backward * (pp_ - 1);
    // Twice over the network: gradients, parameters. 24 bytes for each hidden² and layer.
    const double bytes = budget_.data / 2 * c.network.internode_bytes_per_s;
    const double hidden = std::sqrt(bytes * tp_ * pp_ / (24.0 * m.layers));
    m.hidden = std::max(256, static_cast<int>(hidden / 64) * 64);
    budget_.tp = tp_ > 1 ? budget_.compute * random_.uniform(0.08, 0.2) : 0;
    // Both ways: 4 bytes for each token, hidden and layer of each micro-batch.
    const double tp_bytes = (tp_ > 1 ? budget_.tp : 0.1) * c.network.intranode_bytes_per_s;
    m.sequence = std::clamp(
        static_cast<int>(tp_bytes / (8.0 * m.hidden * m.layers / pp_ * m.micro_batches / cp_)), 128,
        131072);
    // The speed at which this takes as long as it should.
    const double forward = budget_.compute / 3 / m.micro_batches;
    m.flops = 24.0 * m.hidden * m.hidden * (static_cast<double>(m.sequence) / cp_) *
              (static_cast<double>(m.layers) / pp_) / tp_ / forward;
    m.data_ms = random_.uniform(4, 15);
    m.optimizer_ms = random_.uniform(5, 15);
  }

  void surroundings(uint32_t steps) {
    Cluster& c = scenario_.cluster;
    c.steps = steps;
    c.compute_jitter = random_.uniform(0.02, 0.06);
    c.network_jitter = random_.uniform(0.05, 0.12);
    c.telemetry.period_s = random_.uniform(0.5, 1);
    c.telemetry.loss = random_.chance(0.3) ? random_.uniform(0, 0.01) : 0;
    if (random_.chance(0.2)) c.checkpoint_every = 8 + random_.below(8);
  }

  // What makes transfers that take `of` last so much longer that the step grows by a share.
  double slower(double of, double hidden, double low, double high) {
    const double more = random_.uniform(low, high) * (budget_.compute + budget_.data);
    return 1 + (more + hidden) / std::max(1e-4, of);
  }

  Fault severity(Class cls) {
    const uint32_t steps = scenario_.cluster.steps;
    Fault f;
    f.cls = cls;
    f.from = hangs(cls) ? 8 + random_.below(4) : steps / 3 + random_.below(steps / 6);
    const double step = budget_.compute + budget_.data;
    switch (cls) {
      case Class::kSlowCompute:
      case Class::kSlowHost:
        f.factor = random_.uniform(1.1, 1.4);
        break;
      case Class::kSlowComputePeriodic:
        f.factor = random_.uniform(1.3, 1.8);
        f.on_s = random_.uniform(4, 7);
        f.off_s = random_.uniform(7, 12);
        f.from = 10;
        break;
      case Class::kSlowNic:
      case Class::kSlowTx:
      case Class::kSlowRx:
      case Class::kSlowLink:
      case Class::kSlowFabric:
        f.factor = slower(budget_.data, budget_.hidden, 0.12, 0.4);
        break;
      case Class::kLinkFlap:
        f.seconds = random_.uniform(0.2, 0.4);
        f.off_s = random_.uniform(4, 7);
        f.from = 10;
        break;
      case Class::kSlowIntranode:
        f.factor = slower(budget_.tp, 0, 0.12, 0.4);
        break;
      case Class::kDataLoaderStall:
      case Class::kStorageStall:
        f.seconds = random_.uniform(0.2, 0.6) * step;
        f.every = 1 + random_.below(4);
        break;
      case Class::kHostPause:
        f.seconds = random_.uniform(0.2, 0.4);
        f.every = std::max<uint32_t>(8, static_cast<uint32_t>(ranks() / random_.uniform(1, 3)));
        break;
      case Class::kHostLaunchBound:
        f.factor = random_.uniform(1.15, 1.6) / scenario_.cluster.model.launch_share;
        break;
      case Class::kCheckpointStall:
        f.seconds = random_.uniform(1, 4);
        f.from = 1;
        break;
      case Class::kWarmUp:
        f.from = 1;
        f.until = 3 + random_.below(4);
        f.factor = random_.uniform(2.5, 6);
        break;
      case Class::kNotJoined:
        f.from = 1;
        break;
      case Class::kCrash:
        f.whole_host = random_.chance(0.3);
        break;
      case Class::kImbalanceStage:
        f.from = 1;
        f.factor = random_.uniform(1.12, 1.4);
        break;
      case Class::kImbalanceExpert:
        f.from = 1;
        f.factor = std::min<double>(ep_ - 0.2, random_.uniform(1.6, 3));
        f.every = 3 + random_.below(5);
        break;
      case Class::kImbalanceData:
        f.from = 1;
        f.factor = random_.uniform(1.3, 1.8);
        break;
      case Class::kClockStep:
        f.seconds = random_.uniform(0.02, 0.1);
        break;
      default:
        break;
    }
    return f;
  }

  // Another fault in the first half of a run, or beside the first.
  void second(Class first) {
    static const std::vector<Class> choices{Class::kSlowCompute, Class::kDataLoaderStall,
                                            Class::kTelemetryLoss, Class::kClockStep,
                                            Class::kSlowNic};
    Class cls = pick(random_, choices);
    if (cls == first) cls = Class::kSlowHost;
    Fault f = severity(cls);
    if (hangs(first)) f.from = 3;
    scenario_.cluster.faults.push_back(f);
    scenario_.second = true;
  }

  void decoys(Class cls) {
    Cluster& c = scenario_.cluster;
    if (cls != Class::kWarmUp && cls != Class::kNotJoined && random_.chance(0.2)) {
      c.faults.push_back({.cls = Class::kWarmUp, .factor = 3, .from = 1, .until = 3});
    }
    if (random_.chance(0.15)) c.evaluate_every = 6 + random_.below(6);
  }

  int ranks() const { return tp_ * cp_ * ep_ * dp_ * pp_; }

  Random random_;
  const ScenarioLimits limits_;
  Scenario scenario_;
  Budget budget_;
  int tp_ = 1, cp_ = 1, ep_ = 1, dp_ = 1, pp_ = 1;
};

}  // namespace

const char* name_of(Control control) {
  static constexpr std::array kNames{"C1 healthy", "C2 jitter",     "C3 larger batch",
                                     "C4 resize",  "C5 evaluation", "C6 event loss"};
  return kNames[static_cast<size_t>(control)];
}

Scenario random_scenario(uint64_t seed, Class cls, const ScenarioLimits& limits) {
  // Not every layout has a place for every fault: drawn anew.
  for (uint64_t again = 0;; ++again) {
    Scenario s =
        Draw(mix(seed + 1'000'000'007 * again, static_cast<uint64_t>(cls)), limits).fault(cls);
    if (again == kDrawsMax || can_be(s.cluster).ok()) return s;
  }
}

Scenario random_control(uint64_t seed, Control control, const ScenarioLimits& limits) {
  return Draw(mix(seed, 1000 + static_cast<uint64_t>(control)), limits).control(control);
}

}  // namespace convoy::sim
