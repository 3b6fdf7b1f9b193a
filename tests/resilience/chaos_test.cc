// Plans, what is promised, and what is found broken: without a job.
#include "src/resilience/chaos/session.h"
#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <filesystem>
#include <fstream>
#include <set>

namespace convoy::resilience::chaos {
namespace {

const Target kAll{
    .ranks = 8, .has_spares = true, .has_agent = true, .has_tracer = true, .has_folder = true};

std::string text_of(const std::vector<Fault>& plan) {
  std::string text;
  for (const Fault& fault : plan) text += (text.empty() ? "" : ",") + to_json(fault);
  return "{\"faults\": [" + text + "]}";
}

TEST_CASE("the same seed draws the same faults, another one others") {
  REQUIRE(text_of(draw(7, 50, 5, kAll)) == text_of(draw(7, 50, 5, kAll)));
  REQUIRE(text_of(draw(7, 50, 5, kAll)) != text_of(draw(8, 50, 5, kAll)));
  // The beginning does not depend on how many follow.
  const auto few = draw(7, 5, 5, kAll), many = draw(7, 50, 5, kAll);
  REQUIRE(text_of(few) == text_of({many.begin(), many.begin() + 5}));
}

TEST_CASE("drawn faults are possible, and of all kinds") {
  std::set<Kind> kinds;
  int doubles = 0, tracers = 0;
  const auto plan = draw(3, 1000, 4, kAll);
  for (const Fault& fault : plan) {
    kinds.insert(fault.kind);
    doubles += fault.in_recovery ? 1 : 0;
    tracers += fault.kind == Kind::kKillTracer ? 1 : 0;
    REQUIRE((fault.after_s >= 2 && fault.after_s <= 6));
    for (const int rank : fault.ranks) REQUIRE((rank >= 0 && rank < 8));
    REQUIRE(std::set(fault.ranks.begin(), fault.ranks.end()).size() == fault.ranks.size());
    if (fault.kind == Kind::kPause) REQUIRE(fault.seconds <= 1);
  }
  REQUIRE(kinds.size() == kKinds);
  REQUIRE((doubles > 80 && doubles < 200));
  REQUIRE(tracers == 1);
  REQUIRE_FALSE(plan.front().in_recovery);

  for (const Fault& fault : draw(3, 300, 4, {.ranks = 1})) {
    REQUIRE(fault.kind != Kind::kKillSpare);
    REQUIRE(fault.kind != Kind::kKillAgent);
    REQUIRE(fault.kind != Kind::kKillTracer);
    REQUIRE(fault.kind != Kind::kCorrupt);
    REQUIRE(fault.ranks.size() <= 1);
  }
}

TEST_CASE("a plan that is printed is a scenario that is read") {
  const auto plan = draw(5, 100, 4, kAll);
  const auto read = scenario_of_json(text_of(plan), kAll);
  REQUIRE(read.ok());
  REQUIRE(text_of(*read) == text_of(plan));
}

TEST_CASE("scenarios that can't be done are refused with the reason") {
  const auto refusal = [](const std::string& faults) {
    const auto read = scenario_of_json("{\"faults\": [" + faults + "]}", {.ranks = 4});
    REQUIRE_FALSE(read.ok());
    REQUIRE(read.status().code() == Code::kInvalidArgument);
    return read.status().message();
  };
  using Catch::Contains;
  REQUIRE_THAT(refusal(""), Contains("no faults"));
  REQUIRE_THAT(refusal(R"({"kind": "kil", "ranks": [1]})"), Contains("did you mean kill?"));
  REQUIRE_THAT(refusal(R"({"kind": "kill"})"), Contains("needs \"ranks\""));
  REQUIRE_THAT(refusal(R"({"kind": "kill", "ranks": [4]})"), Contains("there is no rank 4"));
  REQUIRE_THAT(refusal(R"({"kind": "kill", "ranks": "all"})"), Contains("fault 1"));
  REQUIRE_THAT(refusal(R"({"kind": "kill", "rank": [1]})"), Contains("no field 'rank'"));
  REQUIRE_THAT(refusal(R"({"kind": "kill_spare"})"), Contains("--spares"));
  REQUIRE_THAT(refusal(R"({"kind": "halt", "ranks": [0], "in_recovery": true})"),
               Contains("needs a fault before it"));
  REQUIRE_FALSE(scenario_of_json("[]", {.ranks = 4}).ok());
}

Done a_fault(Kind kind, std::vector<int> ranks, int64_t generation, double unix_time = 100) {
  Done done{
      .fault = {.kind = kind, .ranks = ranks}, .unix_time = unix_time, .generation = generation};
  done.struck.ranks = std::move(ranks);
  return done;
}

IncidentRecord an_incident(int64_t generation, int64_t steps_lost) {
  return {.unix_time = 100,
          .what = "a rank died",
          .generation = generation,
          .next_generation = generation + 1,
          .step = 20,
          .resumed = 20 - steps_lost,
          .first_step = 0.5,
          .survived = true};
}

TEST_CASE("nothing may be lost while each part of the model is on a rank that lives") {
  const auto mesh = *Mesh::parse("tp=2,dp=2", 4);  // 0 and 2 hold the same, 1 and 3 too
  const IncidentRecord incident = an_incident(0, 0);
  REQUIRE(promised(incident, {a_fault(Kind::kKill, {0}, 0)}, mesh, {}) == 0);
  REQUIRE(promised(incident, {a_fault(Kind::kKill, {0, 1}, 0)}, mesh, {}) == 0);
  REQUIRE(promised(incident, {a_fault(Kind::kKill, {0, 2}, 0)}, mesh, {.steps = 3}) == 3);
  REQUIRE(promised(incident, {a_fault(Kind::kKill, {0}, 0)}, mesh,
                   {.steps = 3, .is_sharded = true}) == 3);
  // One in the middle of the other's recovery; one that came later; one that is no fault.
  const Done first = a_fault(Kind::kKill, {0}, 0);
  REQUIRE(promised(incident, {first, a_fault(Kind::kCrash, {2}, 1)}, mesh, {}) == 1);
  REQUIRE(promised(incident, {first, a_fault(Kind::kCrash, {2}, 1, 110)}, mesh, {}) == 0);
  REQUIRE(promised(incident, {first, a_fault(Kind::kPause, {2}, 0)}, mesh, {}) == 0);
  REQUIRE(promised(incident, {a_fault(Kind::kCorrupt, {0, 1, 2, 3}, 0)}, mesh,
                   {.folder_steps = 40}) == 40);
  // The agent's memory has gone, too.
  Done agent = a_fault(Kind::kKillAgent, {}, 1);
  agent.step = 19;
  const Done part = a_fault(Kind::kKill, {0, 2}, 0);
  REQUIRE(promised(incident, {part, agent}, mesh, {.folder_steps = 40}) == 40);
  REQUIRE(promised(incident, {first, agent}, mesh, {.folder_steps = 40}) == 0);
  agent.step = 10;
  REQUIRE(promised(incident, {part, agent}, mesh, {.folder_steps = 40}) == 1);
}

std::vector<std::string> broken(const Invariants& invariants) {
  std::vector<std::string> names;
  for (const Invariant& i : invariants.list()) {
    if (!i.broken.empty()) names.push_back(i.name);
  }
  return names;
}

TEST_CASE("incidents that should not be are found") {
  using Names = std::vector<std::string>;
  const auto mesh = *Mesh::parse("tp=2,dp=2", 4);
  const auto verdict = [&](const IncidentRecord& incident, const std::vector<Done>& done) {
    Invariants invariants;
    check_incidents({incident}, done, mesh, {}, &invariants);
    return broken(invariants);
  };
  const std::vector<Done> kill{a_fault(Kind::kKill, {1}, 0)};
  REQUIRE(verdict(an_incident(0, 0), kill).empty());
  REQUIRE(verdict(an_incident(0, 1), kill) == Names{"steps_lost"});
  REQUIRE(verdict(an_incident(5, 0), kill) == Names{"caused"});
  REQUIRE(verdict(an_incident(0, 0), {a_fault(Kind::kPause, {1}, 0)}) == Names{"caused"});
  // The next supervisor begins an incident of its own, and what was lost before counts.
  Done supervisor = a_fault(Kind::kKillSupervisor, {}, 1);
  REQUIRE(verdict(an_incident(1, 0), {supervisor}) == Names{"caused"});
  supervisor.was_recovering = true;
  REQUIRE(verdict(an_incident(1, 0), {kill[0], supervisor}).empty());
  REQUIRE(verdict(an_incident(1, 1), {kill[0], supervisor}) == Names{"steps_lost"});
  REQUIRE(verdict(an_incident(1, 1), {a_fault(Kind::kKill, {1, 3}, 0), supervisor}).empty());
  IncidentRecord end = an_incident(0, 0);
  end.survived = false;
  REQUIRE(verdict(end, kill) == Names{"survived"});
  Done damage = a_fault(Kind::kCorrupt, {0, 1, 2, 3}, 0);
  damage.struck.damaged_step = 15;
  REQUIRE(verdict(an_incident(0, 5), {damage}) == Names{"damage_refused"});
  REQUIRE(verdict(an_incident(0, 10), {damage}).empty());
}

TEST_CASE("numbers are compared with those of an undisturbed run") {
  using Names = std::vector<std::string>;
  const Metrics reference{{1, {{"loss", 2.5}, {"tokens", 8}}},
                          {2, {{"loss", 2.25}, {"tokens", 16}}}};
  const auto verdict = [&](const Metrics& metrics, double tolerance) {
    Invariants invariants;
    check_metrics(metrics, reference, tolerance, &invariants);
    return broken(invariants);
  };
  Metrics metrics = reference;
  REQUIRE(verdict(metrics, 0).empty());
  metrics.emplace(2, std::map<std::string, double>{{"loss", 2.2500001}, {"tokens", 16}});
  REQUIRE(verdict(metrics, 0) == Names{"numbers"});
  REQUIRE(verdict(metrics, 1e-6).empty());
  metrics.emplace(4, std::map<std::string, double>{{"loss", 1.0}});
  REQUIRE(verdict(metrics, 1e-6) == Names{"every_step"});
  metrics = reference;
  metrics.begin()->second["tokens"] = 16;
  REQUIRE(verdict(metrics, 0) == Names{"sample_order"});
}

TEST_CASE("the newest saved step is damaged, and never the only one") {
  const TempFolder folder;
  const std::filesystem::path root = folder.path();
  const auto write = [&](const std::string& name) {
    std::filesystem::create_directories((root / name).parent_path());
    std::ofstream(root / name) << "0123456789";
  };
  write("commits/s000000000010-c00000001");
  REQUIRE(damage_newest_step(root).status().code() == Code::kFailedPrecondition);
  write("commits/s000000000020-c00000001");
  write("data/s000000000010/c00000001-g0/n00000-000.chunks");
  write("data/s000000000020/c00000001-g0/n00000-000.chunks");
  write("data/s000000000020/c00000001-g0/n00000.part");
  const auto step = damage_newest_step(root);
  REQUIRE(step.ok());
  REQUIRE(*step == 20);
  const auto text = [&](const std::string& name) {
    std::string line;
    std::ifstream(root / name) >> line;
    return line;
  };
  REQUIRE(text("data/s000000000010/c00000001-g0/n00000-000.chunks") == "0123456789");
  REQUIRE(text("data/s000000000020/c00000001-g0/n00000-000.chunks") == "0123446789");
  REQUIRE(text("data/s000000000020/c00000001-g0/n00000.part") == "0123456789");
}

TEST_CASE("what the supervisor says is read") {
  const auto sight = sight_of_json(
      R"({"job":"j","mesh":"tp=2,dp=4,order=dp-tp","generation":3,"phase":"gathering","step":7,"hang_limit_s":null,
          "ranks":[{"rank":0,"pid":5,"step":7,"halted":true},{"rank":2,"pid":6,"step":6,"new":true}],
          "incident":{"doing":"waiting"}})");
  REQUIRE(sight.ok());
  REQUIRE(sight->ranks() == 8);
  REQUIRE(sight->least_step() == 6);
  REQUIRE(sight->is_recovering);
  REQUIRE(sight->of_rank(1) == nullptr);
  REQUIRE(sight->of_rank(2)->is_new);
  REQUIRE_FALSE(sight_of_json("nobody").ok());
  REQUIRE_FALSE(sight_of_json(R"({"ranks": 3})").ok());
}

TEST_CASE("quantiles are values that were seen") {
  REQUIRE(quantile({}, 0.5) == 0);
  REQUIRE(quantile({3, 1, 2}, 0.5) == 2);
  REQUIRE(quantile({3, 1, 2}, 0.95) == 3);
}

}  // namespace
}  // namespace convoy::resilience::chaos
