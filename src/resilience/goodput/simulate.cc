// A job's time, from failure to failure.
#include "src/resilience/goodput/goodput.h"
#include "src/resilience/supervisor/layout.h"

#include <algorithm>
#include <cmath>
#include <functional>
#include <queue>
#include <random>

namespace convoy::resilience::goodput {
namespace {

constexpr Seconds kDay = 86400;
constexpr Seconds kRemembered = 2 * 3600;  // more than the policy looks back, but for corruption
constexpr int kTriesMax = 8;               // of one failure

class Run {
 public:
  Run(const Setup& setup, const Mix& mix, uint64_t seed)
      : setup_(setup), c_(setup.constants), mix_(mix), random_(seed), end_(setup.days * kDay) {
    if (c_.false_per_day > 0) {
      mix_.causes.push_back(
          {"taken for hung", c_.false_per_day * mix.days, FaultKind::kHang, Seen::kHang, false});
    }
    make_job();
    for (const Cause& cause : mix_.causes) weights_.push_back(cause.count);
  }

  Outcome run() {
    double count = 0;
    for (const double weight : weights_) count += weight;
    const double rate =
        setup_.more_failures * count / (mix_.days * kDay) * setup_.mesh.size() / mix_.ranks;
    Seconds at = 0;
    while (rate > 0) {
      at += std::exponential_distribution(rate)(random_);
      take_back(std::min(at, end_));
      if (at >= end_) break;
      happen(draw(), at);
    }
    take_back(end_);
    train_until(end_);
    // The last recovery may end after the job's time.
    const Seconds whole = std::max(now_, end_);
    for (double& share : out_.share) share /= whole;
    out_.least = out_.most = out_.useful();
    return out_;
  }

 private:
  using Back = std::pair<Seconds, int>;  // when, which node

  void make_job() {
    const Layout layout(setup_.mesh, /*share=*/true);
    job_.blocks = layout.blocks();
    job_.parts = layout.parts();
    job_.is_replicated = setup_.is_replicated && layout.replicas() > 1;
    const int blocks = static_cast<int>(job_.blocks.size());
    const int slots = setup_.per_node / (layout.ranks() / blocks);
    const int nodes = (blocks + slots - 1) / slots + setup_.spares;
    for (int n = 0; n < nodes; ++n) job_.nodes.push_back({"node " + std::to_string(n), slots});
    for (int b = 0; b < blocks; ++b) {
      block(b).node = b / slots;
      job_.copies.push_back({b, kNone, 0, c_.load_s});
    }
    job_.costs = {.step = c_.step_s,
                  .reconfigure = c_.gather_s + c_.groups_s,
                  .promote = c_.promote_s,
                  .respawn = c_.respawn_s,
                  .replica_load = c_.state_s,
                  .repair = c_.repair_s};
  }

  Block& block(int b) { return job_.blocks[static_cast<size_t>(b)]; }
  Node& node(int n) { return job_.nodes[static_cast<size_t>(n)]; }
  void add(Part part, Seconds time) { out_.share[part] += time; }
  void stand_still(Part part, Seconds time) {
    add(part, time);
    now_ += time;
  }

  const Cause& draw() {
    return mix_
        .causes[std::discrete_distribution<size_t>(weights_.begin(), weights_.end())(random_)];
  }
  int any_block() {
    int b = 0;
    do {
      b = static_cast<int>(random_() % job_.blocks.size());
    } while (block(b).node == kNone);
    return b;
  }

  // --- training ---

  void train_until(Seconds at) {
    if (at <= now_) return;
    const auto placed = std::count_if(job_.blocks.begin(), job_.blocks.end(),
                                      [](const Block& b) { return b.node != kNone; });
    const double share = static_cast<double>(placed) / static_cast<double>(job_.blocks.size());
    const Seconds trained = (at - now_) * share;
    const Seconds between = c_.save_every_steps * c_.step_s;
    const Seconds saves = trained * c_.save_s / (between + c_.save_s);
    const Seconds checks = (trained - saves) * c_.check_share / (1 + c_.check_share);
    const Seconds useful = trained - saves - checks;
    add(kFewer, (at - now_) - trained);
    add(kSaves, saves);
    add(kChecks, checks);
    add(kUseful, useful);
    steps_ += useful / c_.step_s;
    now_ = at;
    if (useful > c_.step_s) {
      for (Incident& i : history_) i.is_over = true;
    }
    set_step();
  }
  void set_step() {
    job_.step = static_cast<Step>(steps_);
    const auto every = static_cast<Step>(c_.save_every_steps);
    for (Copy& copy : job_.copies) copy.step = job_.step / every * every;
  }
  // What had been done of the step in which it failed.
  void cut_off(double share) {
    const Seconds done = std::min(share * c_.step_s, out_.share[kUseful]);
    add(kUseful, -done);
    add(kCutOff, done);
    steps_ -= done / c_.step_s;
    set_step();
  }

  // --- failures ---

  void happen(const Cause& cause, Seconds at) {
    const bool in_recovery = at <= now_;
    train_until(at);
    ++out_.incidents;
    start_spares();
    const int b = any_block();
    const int where = block(b).node;
    Fault fault{.kind = cause.kind, .step = job_.step + 1, .at = now_};
    if (cause.kind == FaultKind::kNodeLost) fault.nodes = {where};
    if (cause.kind == FaultKind::kNetwork) {
      fault.blocks = {};  // nobody is named
    } else if (cause.kind != FaultKind::kNodeLost) {
      fault.blocks = {b};
    }
    if (!in_recovery) {
      const bool is_whole = cause.seen == Seen::kCompare;
      cut_off(is_whole ? 1 : std::uniform_real_distribution(0.0, 1.0)(random_));
    }
    stand_still(kDetect, detection(cause.seen));
    recover(fault, cause.stays ? where : kNone);
    if (cause.stays || cause.kind == FaultKind::kNodeLost) take_out(where);
  }

  // `broken`: a node where whatever is started fails.
  void recover(Fault fault, int broken) {
    for (int tries = 0; tries < kTriesMax; ++tries) {
      const Plan plan = decide_now(fault);
      if (plan.action == Action::kStop) return start_by_hand(broken);
      carry_out(plan, fault);
      if (broken == kNone || fault.kind == FaultKind::kNodeLost) return;
      const auto fails = std::find_if(plan.moves.begin(), plan.moves.end(),
                                      [&](const Move& m) { return m.node == broken; });
      if (fails == plan.moves.end()) return;
      fault = {.kind = FaultKind::kExit, .blocks = {fails->block}, .step = fault.step, .at = now_};
      stand_still(kDetect, c_.end_s);
    }
    start_by_hand(broken);
  }

  // Where nobody can go on the job waits for a node.
  Plan decide_now(const Fault& fault) {
    forget();
    Plan plan = decide(job_, history_, fault);
    while (plan.action == Action::kWait && !back_.empty()) {
      const auto [at, n] = back_.top();
      back_.pop();
      stand_still(kWaiting, std::max(0.0, at - now_));
      node(n).state = NodeState::kHealthy;
      plan = decide(job_, history_, fault);
    }
    return plan;
  }

  void carry_out(const Plan& plan, const Fault& fault) {
    std::vector<int> where = fault.nodes;
    for (const int b : fault.blocks) where.push_back(block(b).node);
    Seconds start = 0;
    for (const Move& m : plan.moves) {
      start = std::max(start, m.is_warm ? c_.promote_s : c_.respawn_s);
    }
    if (plan.at_border) start = 0;
    // The plan's own expectation, by its parts.
    if (plan.action == Action::kWait) {
      stand_still(kWaiting, c_.repair_s);
    } else {
      stand_still(kGather, c_.gather_s);
      stand_still(kStart, start);
      stand_still(kGroups, c_.groups_s);
      stand_still(kState, std::max(0.0, plan.down - start - c_.gather_s - c_.groups_s));
    }
    stand_still(kRedone, static_cast<double>(job_.step - plan.resume) * c_.step_s);
    out_.replaced += plan.action == Action::kReplace;
    out_.respawned += plan.action == Action::kRespawn;
    out_.shrunk += plan.action == Action::kShrink;
    apply(plan);
    if (fault.kind != FaultKind::kReturned) history_.push_back({fault, where, false});
  }
  void apply(const Plan& plan) {
    for (const int n : plan.quarantined) take_out(n);
    for (const Move& m : plan.moves) {
      block(m.block).node = m.node;
      if (m.is_warm) --node(m.node).warm;
    }
    for (const int b : plan.dropped) block(b).node = kNone;
  }

  // People leave out the node that is broken, if one is, and start all processes from a checkpoint.
  void start_by_hand(int broken) {
    ++out_.stops;
    history_.clear();
    stand_still(kByHand, c_.by_hand_s);
    stand_still(kStart, c_.respawn_s);
    stand_still(kGroups, c_.groups_s);
    stand_still(kState, c_.load_s);
    stand_still(kRedone, static_cast<double>(job_.step - job_.copies.front().step) * c_.step_s);
    if (broken == kNone) return;
    const Fault left{
        .kind = FaultKind::kNodeLost, .nodes = {broken}, .step = job_.step, .at = now_};
    const Plan plan = decide_now(left);
    out_.shrunk += plan.action == Action::kShrink;
    apply(plan);
  }

  Seconds detection(Seen seen) const {
    switch (seen) {
      case Seen::kEnd:
        return c_.end_s;
      case Seen::kLine:
        return c_.line_s;
      case Seen::kSilence:
        return c_.silence_s;
      case Seen::kHang:
        return c_.hang_steps * c_.step_s + c_.hang_s;
      case Seen::kCompare:
        return 0;
    }
    return 0;
  }

  // Older ones change no decision.
  void forget() {
    std::erase_if(history_, [&](const Incident& i) {
      return i.is_over && i.fault.at < now_ - kRemembered && i.fault.kind != FaultKind::kCorruption;
    });
  }

  // --- nodes ---

  // Wherever there is room; it is hours since the last failure, mostly.
  void start_spares() {
    for (Node& n : job_.nodes) n.warm = n.state == NodeState::kHealthy ? n.slots : 0;
    for (const Block& b : job_.blocks) {
      if (b.node == kNone) continue;
      node(b.node).warm = std::max(0, node(b.node).warm - 1);
    }
  }
  void take_out(int n) {
    if (node(n).state != NodeState::kHealthy) return;
    node(n).state = NodeState::kLost;
    node(n).warm = 0;
    back_.emplace(now_ + c_.repair_s, n);
  }
  // Those that are repaired until `at`.
  void take_back(Seconds at) {
    while (!back_.empty() && back_.top().first <= at) {
      const auto [when, n] = back_.top();
      back_.pop();
      train_until(when);
      node(n).state = NodeState::kHealthy;
      start_spares();
      const Fault fault{.kind = FaultKind::kReturned, .nodes = {n}, .step = job_.step, .at = now_};
      const Plan plan = decide(job_, history_, fault);
      if (plan.action == Action::kGrow) carry_out(plan, fault);
    }
  }

  const Setup& setup_;
  const Constants& c_;
  Mix mix_;
  std::mt19937_64 random_;
  Seconds end_, now_ = 0;
  double steps_ = 0;
  std::vector<double> weights_;
  Job job_;
  History history_;
  std::priority_queue<Back, std::vector<Back>, std::greater<>> back_;
  Outcome out_;
};

}  // namespace

Result<Outcome> simulate(const Setup& setup, const Mix& mix, uint64_t seed) {
  const int block = setup.mesh.size() / setup.mesh.size("dp") / setup.mesh.size("pp");
  if (setup.per_node < 1 || setup.per_node % block != 0) {
    return Status(Code::kInvalidArgument, "nodes of " + std::to_string(setup.per_node) +
                                              " ranks can't hold whole blocks of " +
                                              std::to_string(block) + " (mesh " +
                                              setup.mesh.to_string() + " without dp and pp)");
  }
  return Run(setup, mix, seed).run();
}

Result<Outcome> simulate(const Setup& setup, const Mix& mix, uint64_t seed, int seeds) {
  Outcome mean;
  for (int i = 0; i < seeds; ++i) {
    CONVOY_ASSIGN_OR_RETURN(const Outcome one,
                            simulate(setup, mix, seed + static_cast<uint64_t>(i)));
    for (size_t part = 0; part < kParts; ++part) mean.share[part] += one.share[part] / seeds;
    for (double Outcome::*count : {&Outcome::incidents, &Outcome::replaced, &Outcome::respawned,
                                   &Outcome::shrunk, &Outcome::stops}) {
      mean.*count += one.*count / seeds;
    }
    mean.least = std::min(mean.least, one.useful());
    mean.most = std::max(mean.most, one.useful());
  }
  return mean;
}

const char* name_of(Part part) {
  constexpr std::array<const char*, kParts> kNames{
      "training",       "replicas compared", "checkpoints",     "detection", "step cut off",
      "ranks gather",   "process or spare",  "groups",          "state",     "steps done again",
      "fewer replicas", "waits for nodes",   "stopped, by hand"};
  return kNames[part];
}

}  // namespace convoy::resilience::goodput
