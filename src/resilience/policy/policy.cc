// One way after the other is worked out with what it costs; the cheapest is the plan. Before that:
// what must not be recovered from, and which nodes are not used any more.
#include "src/resilience/policy/blame.h"
#include "src/resilience/policy/placement.h"
#include <convoy/resilience/policy.h>

#include <algorithm>
#include <set>

namespace convoy::resilience {
namespace {

constexpr int kFruitlessMax = 4;   // recoveries in a row without a step: then all begins anew …
constexpr int kFruitlessStop = 6;  // … and then nothing helps
constexpr Seconds kPaysWithin = 900;  // moving away from a slow node has to

// What is left after the fault, and what has to be done about it.
struct Damage {
  Job job;                // as it is now
  std::vector<int> lost;  // blocks that need another process
  std::vector<int> heal;  // blocks that live and need their state
  std::vector<int> unfit;
  bool at_border = false;
};

void lose_blocks_on(Damage& d, const std::vector<int>& nodes) {
  for (size_t b = 0; b < d.job.blocks.size(); ++b) {
    const int node = d.job.blocks[b].node;
    if (node == kNone || std::find(nodes.begin(), nodes.end(), node) == nodes.end()) continue;
    d.lost.push_back(static_cast<int>(b));
  }
}

void set_state(Job& job, const std::vector<int>& nodes, NodeState state) {
  for (const int n : nodes) {
    Node& node = job.nodes[static_cast<size_t>(n)];
    if (node.state != NodeState::kLost) node.state = state;
    if (state != NodeState::kHealthy) node.warm = 0;
  }
}

Damage damage_of(const Job& job, const Fault& fault, const std::vector<int>& unfit) {
  Damage d{.job = job, .lost = {}, .heal = {}, .unfit = unfit};
  switch (fault.kind) {
    case FaultKind::kNodeLost:
      set_state(d.job, fault.nodes, NodeState::kLost);
      lose_blocks_on(d, fault.nodes);
      break;
    case FaultKind::kDrain:
      set_state(d.job, fault.nodes, NodeState::kDraining);
      lose_blocks_on(d, fault.nodes);
      d.at_border = true;
      break;
    case FaultKind::kSlow:
      lose_blocks_on(d, nodes_of(job, fault));
      d.at_border = true;
      break;
    case FaultKind::kCorruption:
      d.heal = fault.blocks;
      break;
    case FaultKind::kExit:
    case FaultKind::kKilled:
    case FaultKind::kOutOfMemory:
    case FaultKind::kHang:
      d.lost = fault.blocks;
      break;
    default:
      break;
  }
  set_state(d.job, d.unfit, NodeState::kQuarantined);
  lose_blocks_on(d, d.unfit);
  for (size_t b = 0; b < d.job.blocks.size(); ++b) {
    const Block& block = d.job.blocks[b];
    if (block.node != kNone && !block.is_alive) d.lost.push_back(static_cast<int>(b));
  }
  std::sort(d.lost.begin(), d.lost.end());
  d.lost.erase(std::unique(d.lost.begin(), d.lost.end()), d.lost.end());
  std::erase_if(d.heal, [&](int b) { return std::binary_search(d.lost.begin(), d.lost.end(), b); });
  return d;
}

std::vector<double> risks(const Job& job, const History& history, Seconds now) {
  std::vector<double> all;
  for (size_t n = 0; n < job.nodes.size(); ++n) {
    all.push_back(risk_of(history, static_cast<int>(n), now));
  }
  return all;
}

// At a border those who leave hand their state over.
Resume resume_after(const Damage& d) {
  std::vector<int> empty = d.heal;
  if (!d.at_border) empty.insert(empty.end(), d.lost.begin(), d.lost.end());
  return resume_without(d.job, empty);
}

Seconds redone(const Job& job, Step resume) {
  return static_cast<Seconds>(job.step - resume) * job.costs.step;
}

// The same mesh, with other processes for what is lost.
std::optional<Plan> keep_mesh(const Damage& d, const std::vector<double>& risk) {
  const auto moves = place(d.job, d.lost, risk);
  if (!moves) return std::nullopt;
  Plan p{.action = Action::kReconfigure, .at_border = d.at_border, .moves = *moves, .heal = d.heal};
  Seconds start = 0;
  for (const Move& m : p.moves) {
    const bool is_home = m.node == d.job.blocks[static_cast<size_t>(m.block)].node;
    if (p.action != Action::kReplace) p.action = is_home ? Action::kRespawn : Action::kReplace;
    start = std::max(start, m.is_warm ? d.job.costs.promote : d.job.costs.respawn);
  }
  Resume resume = resume_after(d);
  if (d.at_border) resume.load = std::max(resume.load, d.job.costs.replica_load), start = 0;
  p.resume = resume.step;
  p.down = d.job.costs.reconfigure + start + resume.load;
  double again = 0;  // it fails once more
  for (const Move& m : p.moves) again = std::max(again, risk[static_cast<size_t>(m.node)]);
  p.cost = (p.down + redone(d.job, p.resume)) * (1 + again);
  return p;
}

// Of replicas, until there is room for them, and to take them in then.
Seconds without(const Job& job, int missing, int of, bool is_room) {
  const Seconds time = is_room ? job.costs.respawn : job.costs.repair;
  return time * static_cast<double>(missing) / of + job.costs.reconfigure + job.costs.replica_load;
}

// Whole replicas of what lives. What is given up comes back once there is room for it.
std::optional<Plan> fewer_replicas(const Damage& d, const std::vector<double>& risk) {
  if (d.job.shrinking == Shrinking::kNever || d.lost.empty()) return std::nullopt;
  const auto dropped = shrink(d.job, d.lost);
  if (!dropped) return std::nullopt;
  const int before = placed(d.job) / std::max(1, d.job.parts);
  const int after = before - static_cast<int>(dropped->size()) / std::max(1, d.job.parts);
  if (after < std::max(1, d.job.replicas_min)) return std::nullopt;
  const Resume resume = resume_after(d);
  Plan p{.action = Action::kShrink, .at_border = d.at_border, .dropped = *dropped, .heal = d.heal};
  p.resume = resume.step;
  p.down = d.job.costs.reconfigure + (d.job.is_replicated && d.heal.empty() ? 0 : resume.load);
  p.cost = p.down + redone(d.job, p.resume) +
           without(d.job, before - after, before, place(d.job, d.lost, risk).has_value());
  return p;
}

// Of `lost`, as many as a mesh of `replicas` lacks, rather where they were.
std::vector<int> lacking(const Damage& d, int replicas) {
  std::vector<int> needed(static_cast<size_t>(d.job.parts), replicas);
  const auto needed_of = [&](size_t block) -> int& {
    return needed[static_cast<size_t>(d.job.blocks[block].part)];
  };
  for (size_t b = 0; b < d.job.blocks.size(); ++b) {
    const bool is_lost = std::binary_search(d.lost.begin(), d.lost.end(), static_cast<int>(b));
    if (d.job.blocks[b].node != kNone && !is_lost) --needed_of(b);
  }
  std::vector<int> candidates = d.lost, chosen;
  std::stable_partition(candidates.begin(), candidates.end(), [&](int b) {
    const int node = d.job.blocks[static_cast<size_t>(b)].node;
    return node != kNone && is_fit(d.job.nodes[static_cast<size_t>(node)]);
  });
  for (const int b : candidates) {
    if (needed_of(static_cast<size_t>(b))-- > 0) chosen.push_back(b);
  }
  return chosen;
}

// Where no whole replica lives, and there is not room for all: as many as there is room for, with
// new processes for what they lack.
std::optional<Plan> fewer_with_new(const Damage& d, const std::vector<double>& risk) {
  if (d.job.shrinking == Shrinking::kNever) return std::nullopt;
  const int before = placed(d.job) / std::max(1, d.job.parts);
  for (int after = before - 1; after >= std::max(1, d.job.replicas_min); --after) {
    const std::vector<int> revived = lacking(d, after);
    const auto moves = place(d.job, revived, risk);
    if (!moves) continue;
    Job then = d.job;
    for (const int b : revived) then.blocks[static_cast<size_t>(b)].is_alive = true;
    std::vector<int> lost = d.lost;
    std::erase_if(
        lost, [&](int b) { return std::find(revived.begin(), revived.end(), b) != revived.end(); });
    const auto dropped = shrink(then, lost);
    if (!dropped) continue;
    const Resume resume = resume_after(d);
    Plan p{.action = Action::kShrink, .moves = *moves, .dropped = *dropped, .heal = d.heal};
    p.resume = resume.step;
    p.down = d.job.costs.reconfigure + d.job.costs.respawn + resume.load;
    p.cost = p.down + redone(d.job, p.resume) +
             without(d.job, before - after, before, /*is_room=*/false);
    return p;
  }
  return std::nullopt;
}

// Blocks without a place get one again, a whole replica at a time: one block of each part.
Plan grow(const Job& job, const std::vector<double>& risk) {
  Plan p{.action = Action::kNothing, .resume = job.step, .reason = "kept as a spare"};
  std::vector<std::vector<int>> of_part(static_cast<size_t>(job.parts));
  for (size_t b = 0; b < job.blocks.size(); ++b) {
    if (job.blocks[b].node != kNone) continue;
    of_part[static_cast<size_t>(job.blocks[b].part)].push_back(static_cast<int>(b));
  }
  std::vector<int> back;
  for (size_t i = 0;; ++i) {
    const auto has_one_more = [&](const auto& part) { return part.size() > i; };
    if (!std::all_of(of_part.begin(), of_part.end(), has_one_more)) break;
    for (const auto& part : of_part) back.push_back(part[i]);
    const auto moves = place(job, back, risk);
    if (!moves) break;
    p.moves = *moves;
  }
  if (p.moves.empty()) return p;
  p.action = Action::kGrow;
  p.at_border = true;  // new processes start while the others train
  p.down = p.cost = job.costs.reconfigure + job.costs.replica_load;
  p.reason = "there is room for " + std::to_string(p.moves.size()) + " more blocks";
  return p;
}

Plan stop(const Job& job, std::string why) {
  return {.action = Action::kStop, .resume = job.step, .reason = std::move(why)};
}

// Nobody may go on: too little is left.
Plan wait(const Damage& d) {
  Plan p{.action = Action::kWait, .dropped = d.lost, .heal = d.heal};
  const Resume resume = resume_without(d.job, d.lost);
  p.resume = resume.step;
  p.down = d.job.costs.repair + d.job.costs.reconfigure + resume.load;
  p.cost = p.down + redone(d.job, p.resume);
  p.reason = "what lives is not enough for one whole replica of the model; waiting for nodes";
  return p;
}

// All processes anew, from the newest state that outlives them.
Plan restart(const Damage& d) {
  Job job = d.job;
  job.is_replicated = false;
  std::vector<int> all;
  for (size_t b = 0; b < job.blocks.size(); ++b) {
    if (job.blocks[b].node != kNone) all.push_back(static_cast<int>(b));
  }
  Plan p{.action = Action::kRestart};
  Resume resume = resume_without(job, all);
  p.resume = resume.step;
  p.down = job.costs.respawn + job.costs.reconfigure + resume.load;
  p.cost = p.down + redone(job, p.resume);
  p.reason =
      std::to_string(kFruitlessMax) + " recoveries in a row brought no step: all begins anew";
  return p;
}

std::string names(const Job& job, const std::vector<int>& nodes) {
  std::string text;
  for (const int n : nodes) {
    text += (text.empty() ? "" : ", ") + job.nodes[static_cast<size_t>(n)].name;
  }
  return text;
}

std::string reason_of(const Damage& d, const Fault& fault, const Plan& plan) {
  std::string text = std::string(name_of(fault.kind));
  const std::vector<int> where = nodes_of(d.job, fault);
  if (!where.empty()) text += " on " + names(d.job, where);
  if (!plan.quarantined.empty()) {
    text += "; not the first there, so " + names(d.job, plan.quarantined) +
            " is not used before it has passed its checks";
  }
  return text;
}

Plan cheapest(const Damage& d, const std::vector<double>& risk, const Fault& fault) {
  std::optional<Plan> best = keep_mesh(d, risk);
  const bool may_shrink = !best || d.job.shrinking == Shrinking::kToBridge;
  const std::optional<Plan> smaller = may_shrink ? fewer_replicas(d, risk) : std::nullopt;
  if (smaller && (!best || smaller->cost < best->cost)) best = smaller;
  if (!best) best = fewer_with_new(d, risk);
  if (!best) return wait(d);
  best->quarantined = d.unfit;
  best->reason = reason_of(d, fault, *best);
  return *best;
}

// A slow node is left only where that pays, and with a place to go.
Plan leave_slow(const Damage& d, const std::vector<double>& risk, const Fault& fault) {
  Job job = d.job;
  for (const int n : nodes_of(job, fault))
    job.nodes[static_cast<size_t>(n)].state = NodeState::kUnchecked;
  Damage moved = d;
  moved.job = job;
  const std::optional<Plan> plan = keep_mesh(moved, risk);
  if (!plan || plan->cost > fault.slow_down * kPaysWithin) {
    return {.action = Action::kNothing,
            .resume = job.step,
            .reason = plan ? "slow, but moving away would cost more" : "slow, and nowhere to go"};
  }
  Plan p = *plan;
  p.quarantined = nodes_of(job, fault);
  p.reason = reason_of(moved, fault, p);
  return p;
}

}  // namespace

Plan decide(const Job& job, const History& history, const Fault& fault) {
  const std::string program = program_to_blame(history, fault);
  if (!program.empty()) return stop(job, program);
  const std::vector<double> risk = risks(job, history, fault.at);
  const std::vector<int> unfit = unfit_nodes(job, history, fault);
  const Damage damage = damage_of(job, fault, unfit);
  if (fault.kind == FaultKind::kReturned) return grow(damage.job, risk);
  if (fault.kind == FaultKind::kSlow) return leave_slow(damage, risk, fault);
  const Fruitless fruitless = recoveries_without_a_step(history, fault);
  if (fruitless.all >= kFruitlessStop) {
    return stop(job, std::to_string(fruitless.all) + " recoveries in a row brought no step");
  }
  if (fruitless.from_inside >= kFruitlessMax) {
    const auto whole = keep_mesh(damage, risk);
    if (whole) {
      Plan p = restart(damage);
      p.moves = whole->moves;
      p.quarantined = damage.unfit;
      return p;
    }
  }
  Plan plan = cheapest(damage, risk, fault);
  if (unfit.empty() || (plan.action != Action::kWait && fault.kind == FaultKind::kCorruption)) {
    return plan;
  }
  // A node that fails now and then is better than none; one where nothing works is not.
  if (plan.action != Action::kWait && fails_at_once(job, history, fault)) return plan;
  Plan stays = cheapest(damage_of(job, fault, {}), risk, fault);
  return stays.cost < plan.cost ? stays : plan;
}

const char* name_of(FaultKind kind) {
  switch (kind) {
    case FaultKind::kExit:
      return "a process has ended";
    case FaultKind::kKilled:
      return "a process was killed";
    case FaultKind::kOutOfMemory:
      return "a process ran out of memory";
    case FaultKind::kHang:
      return "a process hangs";
    case FaultKind::kNodeLost:
      return "a node is gone";
    case FaultKind::kNetwork:
      return "the network has failed";
    case FaultKind::kCorruption:
      return "wrong values";
    case FaultKind::kNonFinite:
      return "the loss is not finite";
    case FaultKind::kMismatch:
      return "ranks called different collectives";
    case FaultKind::kSlow:
      return "slow";
    case FaultKind::kDrain:
      return "to be freed";
    case FaultKind::kReturned:
      return "a node is there";
  }
  return "";
}

const char* name_of(Action action) {
  switch (action) {
    case Action::kNothing:
      return "nothing";
    case Action::kReconfigure:
      return "reconfigure";
    case Action::kRespawn:
      return "respawn";
    case Action::kReplace:
      return "replace";
    case Action::kShrink:
      return "shrink";
    case Action::kGrow:
      return "grow";
    case Action::kWait:
      return "wait";
    case Action::kRestart:
      return "restart";
    case Action::kReshape:
      return "reshape";
    case Action::kStop:
      return "stop";
  }
  return "";
}

}  // namespace convoy::resilience
