// The share of time that a job trains in: what is certain about it whatever fails, and a few jobs
// simple enough to be worked out by hand.
#include "src/resilience/goodput/goodput.h"

#include <catch2/catch.hpp>

#include <numeric>

using namespace convoy;
using namespace convoy::resilience;
using namespace convoy::resilience::goodput;

namespace {

Setup setup_of(const std::string& mesh, int ranks, int spares) {
  auto parsed = Mesh::parse(mesh, ranks);
  REQUIRE(parsed.ok());
  return {.mesh = *parsed, .spares = spares, .days = 10};
}

Mix mix_of(std::vector<Cause> causes, int ranks) {
  return {"ours", ranks, 10, std::move(causes)};
}

double sum(const Outcome& o) {
  return std::accumulate(o.share.begin(), o.share.end(), 0.0);
}

Outcome outcome_of(const Setup& setup, const Mix& mix, uint64_t seed = 1) {
  const auto outcome = simulate(setup, mix, seed);
  REQUIRE(outcome.ok());
  return *outcome;
}

}  // namespace

TEST_CASE("parts of the time are all of the time, whatever fails") {
  const auto mesh = GENERATE("tp=8,pp=2,dp=*", "tp=2,dp=*", "pp=8,dp=*", "tp=8,dp=1,pp=*");
  const int spares = GENERATE(0, 2);
  const bool is_replicated = GENERATE(true, false);
  Setup setup = setup_of(mesh, 64, spares);
  setup.is_replicated = is_replicated;
  setup.constants.false_per_day = 3;
  Mix mix = llama3();
  mix.ranks = 64;  // as many failures on far fewer ranks: they come one into another
  for (uint64_t seed = 0; seed < 5; ++seed) {
    const Outcome o = outcome_of(setup, mix, seed);
    CHECK(sum(o) == Approx(1).margin(1e-9));
    for (const double share : o.share) CHECK(share >= 0);
    CHECK(o.incidents > 50);
    CHECK(o.useful() < 1);
  }
}

TEST_CASE("where nothing fails only checks and checkpoints cost") {
  Setup setup = setup_of("dp=*", 8, 0);
  setup.constants.check_share = 0.01;
  setup.constants.save_s = 6;
  setup.constants.save_every_steps = 9;  // of 6 s each
  const Outcome o = outcome_of(setup, mix_of({}, 8));
  CHECK(o.share[kSaves] == Approx(0.1));
  CHECK(o.share[kChecks] == Approx(0.9 * 0.01 / 1.01));
  CHECK(sum(o) == Approx(1));
}

TEST_CASE("a process that ends beside a warm spare costs what its parts cost") {
  Setup setup = setup_of("tp=8,dp=*", 64, 2);
  setup.constants.end_s = 1;
  setup.constants.gather_s = 2;
  setup.constants.promote_s = 3;
  setup.constants.respawn_s = 30;
  setup.constants.groups_s = 4;
  setup.constants.state_s = 5;
  const Outcome o = outcome_of(setup, mix_of({{"crash", 100, FaultKind::kExit}}, 64));
  const double each = o.incidents / (10 * 86400);
  CHECK(o.share[kDetect] == Approx(1 * each));
  CHECK(o.share[kGather] == Approx(2 * each));
  CHECK(o.share[kStart] == Approx(3 * each));
  CHECK(o.share[kGroups] == Approx(4 * each));
  CHECK(o.share[kState] == Approx(5 * each));
  CHECK(o.share[kCutOff] > 0.3 * 6 * each);
  CHECK(o.share[kCutOff] < 0.7 * 6 * each);
  CHECK(o.share[kRedone] == 0);
  CHECK(o.replaced == o.incidents);
}

TEST_CASE("without replicas steps since the checkpoint are done again") {
  Setup setup = setup_of("tp=8,dp=*", 64, 2);
  setup.is_replicated = false;
  const Mix mix = mix_of({{"crash", 100, FaultKind::kExit}}, 64);
  const Outcome rare = outcome_of(setup, mix);
  const double each = rare.incidents / (10 * 86400);
  CHECK(rare.share[kRedone] > 0.35 * 100 * 6 * each);
  CHECK(rare.share[kRedone] < 0.65 * 100 * 6 * each);
  setup.constants.save_every_steps = 1;
  CHECK(outcome_of(setup, mix).share[kRedone] == 0);
}

TEST_CASE("a machine that stays broken is left: for a spare one, else with fewer replicas") {
  const Mix mix = mix_of({{"GPU", 30, FaultKind::kExit, Seen::kEnd, true}}, 64);
  const Outcome with = outcome_of(setup_of("tp=8,dp=*", 64, 12), mix);
  CHECK(with.replaced == with.incidents);
  CHECK(with.share[kFewer] == 0);
  const Outcome without = outcome_of(setup_of("tp=8,dp=*", 64, 0), mix);
  CHECK(without.shrunk > 0);
  CHECK(without.respawned > 0);  // at first nobody knows that it is broken
  CHECK(without.share[kFewer] > 0);
  CHECK(without.stops < 0.2 * without.incidents);
}

TEST_CASE("dearer constants and more failures leave less") {
  Setup setup = setup_of("tp=8,pp=2,dp=*", 128, 2);
  Mix mix = llama3();
  mix.ranks = 1024;
  const double before = outcome_of(setup, mix).useful();
  setup.constants.groups_s *= 10;
  const double dearer = outcome_of(setup, mix).useful();
  CHECK(dearer < before);
  setup.more_failures = 3;
  CHECK(outcome_of(setup, mix).useful() < dearer);
  CHECK(outcome_of(setup, mix, 7).useful() == outcome_of(setup, mix, 7).useful());
}

TEST_CASE("what Llama 3's report counts is in its mix") {
  double count = 0;
  for (const Cause& cause : llama3().causes) count += cause.count;
  CHECK(count == 419);
}

TEST_CASE("what can't be read is named") {
  const auto message = [](const std::string& text) { return mix_of_json(text).status().message(); };
  const std::string head = R"({"ranks": 8, "days": 1, "causes": [)";
  CHECK(message("{") != "");
  CHECK(message(R"({"ranks": 0, "days": 1, "causes": []})").find("ranks") != std::string::npos);
  CHECK(message(head + R"({"name": "a", "count": 1, "kind": "exi", "seen": "end"}]})")
            .find("'exi' is none of exit") != std::string::npos);
  CHECK(message(head + R"({"name": "a", "count": 1, "kind": "exit", "sen": "end"}]})")
            .find("'sen'") != std::string::npos);
  CHECK(message(head + R"({"name": "a", "count": -1, "kind": "exit", "seen": "end"}]})")
            .find("less than 0") != std::string::npos);
  const auto mix =
      mix_of_json(head + R"({"name": "a", "count": 2, "kind": "hang", "seen": "hang"}]})");
  REQUIRE(mix.ok());
  CHECK(mix->causes.front().kind == FaultKind::kHang);
  Constants c;
  CHECK(change(c, R"({"groups_s": 7})").ok());
  CHECK(c.groups_s == 7);
  CHECK(change(c, R"({"group_s": 7})").message().find("groups_s") != std::string::npos);
  CHECK_FALSE(change(c, R"({"groups_s": -1})").ok());
  CHECK_FALSE(change(c, R"({"step_s": 0})").ok());
  CHECK_FALSE(change(c, "[").ok());
  CHECK_FALSE(constants_of("guessed").ok());
  CHECK_FALSE(simulate(setup_of("tp=16,dp=*", 64, 0), llama3(), 1).ok());  // nodes of eight
}

TEST_CASE("the picture has a bar for each row") {
  Row row{"a < b & c", {}};
  row.outcome.share[kUseful] = 0.98;
  row.outcome.share[kGroups] = 0.02;
  const std::string svg = to_svg({row, row}, "title");
  CHECK(svg.find("a &lt; b &amp; c") != std::string::npos);
  CHECK(svg.find("98.00 %") != std::string::npos);
  size_t bars = 0;
  for (size_t at = svg.find("class=\"p7\""); at != std::string::npos; ++bars) {
    at = svg.find("class=\"p7\"", at + 1);
  }
  CHECK(bars == 3);  // and one in the legend
}
