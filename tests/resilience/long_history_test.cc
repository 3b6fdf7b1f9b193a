// The policy over 54 days of 16,384 ranks with the failures that were published for Llama 3 (419
// interruptions; shares of causes as there): it must never stop or stand still, and lose little.
// Costs are guesses on the careful side, so the share of useful time is no measurement; that it
// stays high as they grow is what is checked.
#include "tests/resilience/on_paper.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <iostream>
#include <queue>
#include <random>

using namespace convoy::resilience;

namespace {

constexpr Seconds kDay = 86400;
constexpr Seconds kRun = 54 * kDay;
constexpr int kFaults = 419;

struct Total {
  double useful = 0;  // of the time, with all replicas
  int stops = 0, waits = 0, replaced = 0, shrunk = 0, grown = 0;
};

class LongRun {
 public:
  LongRun(Job job, unsigned seed) : job_(std::move(job)), random_(seed) {}

  Total run() {
    Seconds at = 0;
    for (;;) {
      at += std::exponential_distribution(kFaults / kRun)(random_);
      while (!back_.empty() && back_.top().first <= std::min(at, kRun)) come_back();
      if (at >= kRun) break;
      happen(fault(at));
    }
    train_until(kRun);
    total_.useful /= kRun;
    return total_;
  }

 private:
  using Back = std::pair<Seconds, int>;  // when, which node

  // Hardware takes its node along; the rest is processes, the network, and wrong values.
  Fault fault(Seconds at) {
    const double share = std::uniform_real_distribution(0.0, 1.0)(random_);
    Fault f{.step = job_.step + 1, .at = at};
    f.kind = share < 0.65    ? FaultKind::kNodeLost
             : share < 0.9   ? FaultKind::kExit
             : share < 0.985 ? FaultKind::kNetwork
                             : FaultKind::kCorruption;
    int block = 0;
    do {
      block = static_cast<int>(random_() % job_.blocks.size());
    } while (block_of(job_, block).node == kNone);
    if (f.kind == FaultKind::kNodeLost) f.nodes = {block_of(job_, block).node};
    if (f.kind != FaultKind::kNodeLost) f.blocks = {block};
    return f;
  }

  void happen(const Fault& f) {
    train_until(f.at);
    start_spares();
    std::vector<int> where = f.nodes;
    for (const int b : f.blocks) where.push_back(block_of(job_, b).node);
    const Plan plan = decide(job_, history_, f);
    total_.stops += plan.action == Action::kStop;
    total_.waits += plan.action == Action::kWait;
    total_.replaced += plan.action == Action::kReplace;
    total_.shrunk += plan.action == Action::kShrink;
    total_.grown += plan.action == Action::kGrow;
    apply(job_, plan, f);
    if (f.kind != FaultKind::kReturned) history_.push_back({f, where, true});
    for (const int n : f.kind == FaultKind::kNodeLost ? f.nodes : plan.quarantined) {
      back_.emplace(f.at + job_.costs.repair, n);
    }
    // Steps that are done once more are lost, too.
    now_ = std::max(now_, f.at) + plan.down +
           static_cast<double>(job_.step - plan.resume) * job_.costs.step;
  }

  // Where there is room, hours after the last fault.
  void start_spares() {
    for (Node& n : job_.nodes) n.warm = n.state == NodeState::kHealthy ? n.slots : 0;
    for (const Block& b : job_.blocks) {
      if (b.node != kNone && b.is_alive) node_of(job_, b.node).warm = 0;  // one slot each
    }
  }

  void come_back() {
    const auto [at, node] = back_.top();
    back_.pop();
    node_of(job_, node).state = NodeState::kHealthy;
    happen({.kind = FaultKind::kReturned, .nodes = {node}, .step = job_.step + 1, .at = at});
  }

  void train_until(Seconds at) {
    if (at <= now_) return;
    const auto placed = std::count_if(job_.blocks.begin(), job_.blocks.end(),
                                      [](const Block& b) { return b.node != kNone; });
    total_.useful +=
        (at - now_) * static_cast<double>(placed) / static_cast<double>(job_.blocks.size());
    job_.step += static_cast<Step>((at - now_) / job_.costs.step);
    now_ = at;
  }

  Job job_;
  std::mt19937 random_;
  History history_;
  std::priority_queue<Back, std::vector<Back>, std::greater<>> back_;
  Seconds now_ = 0;
  Total total_;
};

}  // namespace

TEST_CASE("54 days of 16,384 ranks") {
  const int spares = GENERATE(0, 4, 16);
  const double dearer = GENERATE(1.0, 10.0);
  Job job = job_of(128, 16, spares);  // tp 8: a block is a node of eight
  job.costs = {.step = 8,
               .reconfigure = 2 * dearer,
               .promote = 2 * dearer,
               .respawn = 60 * dearer,
               .replica_load = 5 * dearer,
               .repair = 6 * 3600};
  const Total total = LongRun(job, 7).run();
  std::cout << spares << " spare nodes, costs x " << dearer << ": useful " << 100 * total.useful
            << " %, replaced " << total.replaced << ", shrunk " << total.shrunk << ", grown "
            << total.grown << '\n';
  CHECK(total.stops == 0);
  CHECK(total.waits == 0);
  CHECK(total.useful > (dearer == 1 ? 0.98 : 0.9));
  if (spares == 16) {
    CHECK(total.shrunk == 0);
    CHECK(total.useful > (dearer == 1 ? 0.999 : 0.985));
  }
}
