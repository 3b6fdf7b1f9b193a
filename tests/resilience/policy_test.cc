// The policy's plans: for each kind of fault the one that a careful operator would choose, and of
// random histories what must hold for every plan.
#include "tests/resilience/on_paper.h"

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <random>
#include <set>

using namespace convoy::resilience;

namespace {

Fault fault_of(FaultKind kind, std::vector<int> blocks, std::vector<int> nodes = {}) {
  return {.kind = kind,
          .blocks = std::move(blocks),
          .nodes = std::move(nodes),
          .step = 101,
          .at = 1000};
}

Incident incident_of(Fault fault, std::vector<int> nodes, Step step, Seconds at) {
  fault.step = step, fault.at = at;
  return {fault, std::move(nodes), true};
}

}  // namespace

TEST_CASE("a process that ends: a warm spare takes its place, else a new one on its node") {
  const int spares = GENERATE(0, 1);
  const Plan plan = decide(job_of(4, 2, spares), {}, fault_of(FaultKind::kExit, {3}));
  CHECK(plan.action == (spares != 0 ? Action::kReplace : Action::kRespawn));
  REQUIRE(plan.moves.size() == 1);
  CHECK(plan.moves[0].block == 3);
  CHECK(plan.moves[0].node == (spares != 0 ? 8 : 3));
  CHECK(plan.resume == 100);  // from a live replica: no step is lost
  CHECK(plan.quarantined.empty());
}

TEST_CASE("without a live replica all go back to the newest step that is whole somewhere") {
  Job job = job_of(1, 2, 1);
  // Part 1's memory of step 90 is gone with its node, what a peer keeps of it is not.
  job.copies = {{0, 0, 90, 1}, {1, 1, 90, 1},     {0, 0, 80, 1},
                {1, 0, 80, 2}, {0, kNone, 50, 9}, {1, kNone, 50, 9}};
  const Plan lost = decide(job, {}, fault_of(FaultKind::kNodeLost, {}, {1}));
  CHECK(lost.action == Action::kReplace);
  CHECK(lost.resume == 80);
  // The process alone: its node's memory lives on.
  CHECK(decide(job, {}, fault_of(FaultKind::kExit, {1})).resume == 90);
  job.copies.resize(2);
  job.copies.push_back({0, kNone, 50, 9});
  job.copies.push_back({1, kNone, 50, 9});
  CHECK(decide(job, {}, fault_of(FaultKind::kNodeLost, {}, {1})).resume == 50);
  job.copies.clear();
  CHECK(decide(job, {}, fault_of(FaultKind::kNodeLost, {}, {1})).resume == 0);
}

TEST_CASE("a node that is gone and nowhere to go: fewer replicas, if that is allowed") {
  Job job = job_of(3, 2, 0);
  const Fault gone = fault_of(FaultKind::kNodeLost, {}, {2});
  const Plan plan = decide(job, {}, gone);
  CHECK(plan.action == Action::kShrink);
  CHECK(plan.dropped == std::vector<int>{2, 3});  // the lost one, and the rest of its replica
  CHECK(plan.resume == 100);
  job.shrinking = Shrinking::kNever;
  CHECK(decide(job, {}, gone).action == Action::kWait);
  job.shrinking = Shrinking::kIfNeeded;
  job.replicas_min = 3;
  CHECK(decide(job, {}, gone).action == Action::kWait);
}

TEST_CASE("what is left of two broken replicas makes one whole one") {
  Job job = job_of(3, 2, 0);
  const Plan plan = decide(job, {}, fault_of(FaultKind::kNodeLost, {}, {0, 3}));
  CHECK(plan.action == Action::kShrink);
  // Parts 0 of replica 0 and 1 of replica 1 are gone; 1 and 2 stand in for each other.
  CHECK(plan.dropped == std::vector<int>{0, 3});
}

TEST_CASE("to bridge the start of a process: only where that is cheaper and allowed") {
  Job job = job_of(4, 1, 0);
  job.shrinking = Shrinking::kToBridge;
  job.costs.respawn = 60;
  CHECK(decide(job, {}, fault_of(FaultKind::kExit, {1})).action == Action::kShrink);
  job.costs.respawn = 0.2;
  CHECK(decide(job, {}, fault_of(FaultKind::kExit, {1})).action == Action::kRespawn);
  job.costs.respawn = 60;
  job.shrinking = Shrinking::kIfNeeded;
  CHECK(decide(job, {}, fault_of(FaultKind::kExit, {1})).action == Action::kRespawn);
}

TEST_CASE("groups that failed while all live: the same processes go on") {
  const Plan plan = decide(job_of(2, 2, 1), {}, fault_of(FaultKind::kNetwork, {1}));
  CHECK(plan.action == Action::kReconfigure);
  CHECK(plan.moves.empty());
  CHECK(plan.resume == 100);
}

TEST_CASE("wrong values: healed from another replica; the second time its node has to go") {
  Job job = job_of(3, 1, 1);
  const Fault flip = fault_of(FaultKind::kCorruption, {1});
  const Plan first = decide(job, {}, flip);
  CHECK(first.action == Action::kReconfigure);
  CHECK(first.heal == std::vector<int>{1});
  CHECK(first.quarantined.empty());
  const Plan second = decide(job, {incident_of(flip, {1}, 20, -90000)}, flip);
  CHECK(second.action == Action::kReplace);
  CHECK(second.quarantined == std::vector<int>{1});
  REQUIRE(second.moves.size() == 1);
  CHECK(second.moves[0].node == 3);
}

TEST_CASE("a node where processes end again and again is left, if there is another place") {
  const Fault exit = fault_of(FaultKind::kExit, {1});
  const History once = {incident_of(exit, {1}, 60, 500)};
  const Plan plan = decide(job_of(2, 1, 1), once, exit);
  CHECK(plan.quarantined == std::vector<int>{1});
  CHECK(plan.action == Action::kReplace);
  // The only machine there is.
  const Plan only = decide(job_of(2, 1, 0, 2), {incident_of(exit, {0}, 60, 500)}, exit);
  CHECK(only.action == Action::kRespawn);
  CHECK(only.quarantined.empty());
  // What was started there has failed at once: rather fewer replicas than a third time, unless
  // nothing whole would be left.
  History at_once = {incident_of(exit, {1}, 101, 999)};
  CHECK(decide(job_of(2, 1, 0), at_once, exit).action == Action::kRespawn);
  at_once.back().is_over = false;
  const Plan fewer = decide(job_of(2, 1, 0), at_once, exit);
  CHECK(fewer.action == Action::kShrink);
  CHECK(fewer.quarantined == std::vector<int>{1});
  CHECK(decide(job_of(2, 1, 0, 2), {{exit, {0}, false}}, exit).action == Action::kRespawn);
  // Long ago does not count.
  CHECK(decide(job_of(2, 1, 1), {incident_of(exit, {1}, 60, -9000)}, exit).quarantined.empty());
}

TEST_CASE("the program's own fault is not recovered from for ever") {
  const Job job = job_of(4, 1, 4);
  CHECK(decide(job, {}, fault_of(FaultKind::kMismatch, {1})).action == Action::kStop);
  const Fault exit = fault_of(FaultKind::kExit, {2});
  const History twice = {incident_of(exit, {0}, 101, 900), incident_of(exit, {1}, 101, 950)};
  const Plan plan = decide(job, twice, exit);
  CHECK(plan.action == Action::kStop);
  CHECK(plan.reason.find("step 101") != std::string::npos);
  // Several at once are one time.
  Fault with_it = exit;
  with_it.is_one_more = true;
  CHECK(decide(job, twice, with_it).action == Action::kReplace);
  CHECK(decide(job, {twice[0], incident_of(with_it, {1}, 101, 950)}, exit).action ==
        Action::kReplace);
  // In other steps it is chance.
  CHECK(decide(job, {incident_of(exit, {0}, 40, 400), incident_of(exit, {1}, 70, 700)}, exit)
            .action == Action::kReplace);
  const Fault nan = fault_of(FaultKind::kNonFinite, {});
  CHECK(decide(job, {}, nan).action == Action::kReconfigure);
  CHECK(decide(job, {incident_of(nan, {}, 101, 990)}, nan).action == Action::kStop);
}

TEST_CASE("recoveries that bring no step: begin anew, then stop") {
  Job job = job_of(4, 1, 4);
  for (int b = 0; b < 4; ++b) job.copies.push_back({b, kNone, 80, 3});
  History history;
  for (int i = 0; i < 3; ++i) {
    history.push_back(incident_of(fault_of(FaultKind::kNetwork, {i}), {i}, 101 - i, 990));
    history.back().is_over = false;
  }
  const Plan anew = decide(job, history, fault_of(FaultKind::kExit, {3}));
  CHECK(anew.action == Action::kRestart);
  CHECK(anew.resume == 80);
  history.push_back(history.back()), history.push_back(history.back());
  CHECK(decide(job, history, fault_of(FaultKind::kExit, {3})).action == Action::kStop);
  history.back().is_over = true;  // it went on
  CHECK(decide(job, history, fault_of(FaultKind::kExit, {3})).action == Action::kReplace);
}

TEST_CASE("no whole replica lives, and there is not room for all: fewer, with new processes") {
  Job job = job_of(2, 2, 0);  // a block on each of four nodes
  job.blocks[0].is_alive = false;
  const Fault fault = fault_of(FaultKind::kNodeLost, {}, {2});  // so part 0 lives nowhere
  const Plan plan = decide(job, {}, fault);
  REQUIRE(plan.action == Action::kShrink);
  REQUIRE(plan.moves.size() == 1);
  CHECK(plan.moves[0].block == 0);
  CHECK(plan.moves[0].node == 0);
  CHECK(plan.dropped.size() == 2);
  CHECK(plan.dropped.front() != 0);
  CHECK(plan.resume == 0);
  job.replicas_min = 2;
  CHECK(decide(job, {}, fault).action == Action::kWait);
}

TEST_CASE("what is done to a job from outside, however often, does not speak against its state") {
  const Job job = job_of(4, 1, 4);
  History history;
  const auto add = [&](FaultKind kind, int block) {
    history.push_back(incident_of(fault_of(kind, {block}), {block}, 101, 990));
    history.back().is_over = false;
  };
  for (int b = 0; b < 4; ++b) add(FaultKind::kKilled, b);
  CHECK(decide(job, history, fault_of(FaultKind::kHang, {3})).action == Action::kReplace);
  add(FaultKind::kKilled, 0);
  CHECK(decide(job, history, fault_of(FaultKind::kHang, {3})).action == Action::kStop);
  // Asked for: no failure at all.
  history.clear();
  for (int i = 0; i < 6; ++i) add(FaultKind::kReturned, 0);
  CHECK(decide(job, history, fault_of(FaultKind::kExit, {3})).action == Action::kReplace);
}

TEST_CASE("maintenance: blocks move at a step's border, and no step is lost") {
  Job job = job_of(1, 2, 1);  // no replica to load from: those who leave hand over
  const Plan plan = decide(job, {}, fault_of(FaultKind::kDrain, {}, {0}));
  CHECK(plan.action == Action::kReplace);
  CHECK(plan.at_border);
  CHECK(plan.resume == 100);
  REQUIRE(plan.moves.size() == 1);
  CHECK(plan.moves[0].node == 2);
}

TEST_CASE("a slow node is left where that pays") {
  Fault slow = fault_of(FaultKind::kSlow, {1});
  slow.slow_down = 0.2;
  CHECK(decide(job_of(4, 1, 1), {}, slow).action == Action::kReplace);
  CHECK(decide(job_of(4, 1, 0), {}, slow).action == Action::kNothing);
  slow.slow_down = 0.0005;
  CHECK(decide(job_of(4, 1, 1), {}, slow).action == Action::kNothing);
}

TEST_CASE("nodes that return: the job grows back, whole replicas only") {
  Job job = job_of(3, 2, 1);
  job.blocks[4].node = job.blocks[5].node = kNone;
  job.nodes[4].state = NodeState::kQuarantined;
  job.nodes[5].state = NodeState::kQuarantined;
  CHECK(decide(job, {}, fault_of(FaultKind::kReturned, {}, {6})).action == Action::kNothing);
  job.nodes[5].state = NodeState::kHealthy;
  const Plan plan = decide(job, {}, fault_of(FaultKind::kReturned, {}, {5}));
  CHECK(plan.action == Action::kGrow);
  CHECK(plan.at_border);
  CHECK(plan.moves.size() == 2);
}

TEST_CASE("of random histories: every plan leaves a job that can run, or says why not") {
  const unsigned seed = GENERATE(range(0U, 200U));
  CAPTURE(seed);
  std::mt19937 random(seed);
  const auto pick = [&](int n) { return static_cast<int>(random() % static_cast<unsigned>(n)); };
  Job job = job_of(2 + pick(4), 1 + pick(3), pick(4), 1 + pick(2));
  job.shrinking = static_cast<Shrinking>(pick(3));
  job.is_replicated = pick(2) == 0;
  History history;
  Seconds at = 0;
  for (int i = 0; i < 60; ++i) {
    at += pick(4000);
    Fault f{.kind = static_cast<FaultKind>(pick(11)), .step = job.step + 1, .at = at};
    const int node = pick(static_cast<int>(job.nodes.size()));
    const bool is_of_node = f.kind == FaultKind::kNodeLost || f.kind == FaultKind::kDrain ||
                            f.kind == FaultKind::kReturned;
    if (is_of_node) {
      f.nodes = {node};
      if (f.kind == FaultKind::kReturned)
        job.nodes[static_cast<size_t>(node)].state = NodeState::kHealthy;
    } else {
      const int b = pick(static_cast<int>(job.blocks.size()));
      if (job.blocks[static_cast<size_t>(b)].node == kNone) continue;
      f.blocks = {b};
    }
    f.slow_down = pick(100) / 100.0;
    for (size_t b = 0; b < job.blocks.size(); ++b)
      job.copies.push_back({static_cast<int>(b), kNone, job.step - 5, 2});
    const Plan plan = decide(job, history, f);
    CAPTURE(i, name_of(f.kind), name_of(plan.action), plan.reason);
    CHECK(plan.resume <= job.step);
    CHECK(plan.cost >= plan.down);
    CHECK(
        (plan.action == Action::kNothing || plan.action == Action::kGrow || !plan.reason.empty()));
    if (plan.action == Action::kStop || plan.action == Action::kWait) {
      CHECK_FALSE(plan.reason.empty());
      if (plan.action == Action::kWait) break;
      continue;  // as if somebody had mended the program
    }
    std::vector<int> nodes = f.nodes;
    for (const int b : f.blocks) nodes.push_back(job.blocks[static_cast<size_t>(b)].node);
    apply(job, plan, f);
    history.push_back({f, nodes, true});
    // Whole replicas, each part as often as the others; on nodes that may be used, with room.
    std::map<int, int> of_part, on_node;
    for (const Block& b : job.blocks) {
      if (b.node == kNone) continue;
      ++of_part[b.part], ++on_node[b.node];
      const NodeState state = job.nodes[static_cast<size_t>(b.node)].state;
      CHECK((state == NodeState::kHealthy || state == NodeState::kUnchecked));
    }
    std::set<int> counts;
    for (int p = 0; p < job.parts; ++p) counts.insert(of_part[p]);
    CHECK(counts.size() == 1);
    CHECK(*counts.begin() >= job.replicas_min);
    for (const auto& [n, count] : on_node) CHECK(count <= job.nodes[static_cast<size_t>(n)].slots);
    for (const Node& n : job.nodes) CHECK(n.warm >= 0);
    job.step += 1 + pick(50);
    job.copies.clear();
  }
}
