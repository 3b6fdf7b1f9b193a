// Plans, what is promised, and what is found broken: without a job.
#include "src/resilience/chaos/disk.h"
#include "src/resilience/chaos/flip.h"
#include "src/resilience/chaos/link.h"
#include "src/resilience/chaos/saved.h"
#include "src/resilience/chaos/session.h"
#include "tests/temp_folder.h"
#include <convoy/base/fd.h>
#include <convoy/base/process.h>
#include <convoy/base/vitals.h>
#include <convoy/resilience/policy.h>

#include <catch2/catch.hpp>

#include <array>
#include <bit>
#include <cmath>
#include <csignal>
#include <filesystem>
#include <fstream>
#include <functional>
#include <sched.h>
#include <set>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/wait.h>
#include <unistd.h>

namespace convoy::resilience::chaos {
namespace {

const Target kAll{.ranks = 8,
                  .has_spares = true,
                  .has_agent = true,
                  .has_tracer = true,
                  .has_folder = true,
                  .replicas = 2,
                  .has_disk = true,
                  .can_freeze = true,
                  .has_link = true};

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
    if (flips(fault.kind)) REQUIRE((fault.ranks.size() == 1 && fault.amount >= 1));
    if (strikes_link(fault.kind)) REQUIRE_FALSE(needs_recovery(fault));
    const bool needs_rest =
        flips(fault.kind) || strikes_disk(fault.kind) || strikes_link(fault.kind);
    const bool follows_flip = &fault != &plan.front() && flips((&fault - 1)->kind);
    REQUIRE_FALSE((fault.in_recovery && (needs_rest || follows_flip)));
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
    REQUIRE(!flips(fault.kind));
    REQUIRE_FALSE((strikes_disk(fault.kind) || strikes_link(fault.kind)));
    REQUIRE(fault.ranks.size() <= 1);
  }
  for (const Fault& fault : draw(3, 300, 4, {.ranks = 4, .has_folder = true, .has_disk = true})) {
    REQUIRE(fault.kind != Kind::kDiskSlow);
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
  REQUIRE_THAT(refusal(R"({"kind": "flip", "ranks": [1]})"), Contains("no replicas"));
  REQUIRE_THAT(refusal(R"({"kind": "disk_full"})"), Contains("no file system of its own"));
  REQUIRE_THAT(refusal(R"({"kind": "disk_slow"})"), Contains("can be frozen"));
  REQUIRE_THAT(refusal(R"({"kind": "cut_link"})"), Contains("--link"));
  REQUIRE_FALSE(scenario_of_json("[]", {.ranks = 4}).ok());
}

TEST_CASE("what needs a job at rest can't be done in a recovery") {
  const auto refusal = [](const std::string& faults) {
    const auto read = scenario_of_json("{\"faults\": [" + faults + "]}", kAll);
    return read.ok() ? "" : read.status().message();
  };
  using Catch::Contains;
  const std::string kill = R"({"kind": "kill", "ranks": [1]}, )";
  REQUIRE(refusal(kill + R"({"kind": "flip", "ranks": [1]})").empty());
  REQUIRE_THAT(refusal(R"({"kind": "flip", "ranks": [1, 2]})"), Contains("needs one rank"));
  REQUIRE_THAT(refusal(R"({"kind": "flip"})"), Contains("needs one rank"));
  for (const char* fault : {R"({"kind": "flip", "ranks": [1], "in_recovery": true})",
                            R"({"kind": "disk_full", "in_recovery": true})",
                            R"({"kind": "disk_slow", "in_recovery": true})",
                            R"({"kind": "cut_link", "in_recovery": true})"}) {
    REQUIRE_THAT(refusal(kill + fault), Contains("takes a job that trains"));
  }
  REQUIRE_THAT(refusal(R"({"kind": "flip", "ranks": [1]},
                          {"kind": "kill", "ranks": [5], "in_recovery": true})"),
               Contains("can't follow a flip"));
}

TEST_CASE("the bit that flips is in a mantissa, whatever the format") {
  const Bit first = bit_at(64, 0), last = bit_at(64, 31), around = bit_at(64, 32);
  REQUIRE((first.offset == 0 && first.mask == uint64_t{1} << 48));
  REQUIRE((last.offset == 56 && last.mask == uint64_t{1} << 51));
  REQUIRE((around.offset == first.offset && around.mask == first.mask));
  REQUIRE(bit_at(7, 3).mask == 0);
  for (const double value : {1.5, -3e-5, 2e300}) {
    const double flipped = std::bit_cast<double>(std::bit_cast<uint64_t>(value) ^ last.mask);
    REQUIRE((std::abs(flipped / value) > 0.6 && std::abs(flipped / value) < 1.5));
    REQUIRE(flipped != value);
  }
  const std::array<float, 2> pair{0.5F, -0.75F};
  auto flipped = std::bit_cast<std::array<float, 2>>(std::bit_cast<uint64_t>(pair) ^ last.mask);
  REQUIRE((flipped[0] == pair[0] && flipped[1] != pair[1] && std::isfinite(flipped[1])));
}

// The page that a worker shows of itself, in a process that waits for others or only works.
struct Worker {
  explicit Worker(uint32_t waiting) {
    const UniqueFd file(::memfd_create("convoy-vitals", MFD_CLOEXEC));
    REQUIRE(::ftruncate(file.get(), sizeof(Vitals)) == 0);
    page = static_cast<Vitals*>(
        ::mmap(nullptr, sizeof(Vitals), PROT_READ | PROT_WRITE, MAP_SHARED, file.get(), 0));
    value = static_cast<double*>(
        ::mmap(nullptr, sizeof(double), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0));
    *value = 1.5;
    new (page) Vitals;
    page->step = 7;
    page->training = 1;
    page->waiting = waiting;
    page->parameters = reinterpret_cast<uint64_t>(value);
    page->parameter_bytes = sizeof(double);
    pid = ::fork();
    if (pid == 0) {
      while (true) ::pause();
    }
  }
  ~Worker() {
    ::kill(pid, SIGKILL);
    ::waitpid(pid, nullptr, 0);
  }
  Vitals* page = nullptr;
  double* value = nullptr;
  pid_t pid = 0;
};

TEST_CASE("a bit of another process's parameters flips") {
  const Worker worker(1);
  const auto step = flip_a_parameter(worker.pid, 3);
  INFO(step.status().message());
  REQUIRE(step.ok());
  REQUIRE(*step == 7);
  REQUIRE(*worker.value == 1.0);  // 1.5 without its uppermost bit
  worker.page->training = 0;
  REQUIRE(flip_a_parameter(worker.pid, 3).status().code() == Code::kFailedPrecondition);
  worker.page->training = 1;
  worker.page->parameters = 8;  // as if they lay on a device
  REQUIRE_FALSE(flip_a_parameter(worker.pid, 3).ok());
  REQUIRE_FALSE(flip_a_parameter(0, 3).ok());
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
  // A machine may be lost by a long cut, not by a short one.
  Done cut = a_fault(Kind::kCutLink, {}, 0);
  cut.fault.seconds = 0.5;
  REQUIRE(verdict(an_incident(0, 0), {cut}) == Names{"caused"});
  cut.fault.seconds = 5;
  REQUIRE(verdict(an_incident(0, 0), {cut}).empty());
  REQUIRE(verdict(an_incident(0, 0), {a_fault(Kind::kDiskFull, {}, 0)}) == Names{"caused"});
  IncidentRecord end = an_incident(0, 0);
  end.survived = false;
  REQUIRE(verdict(end, kill) == Names{"survived"});
  Done damage = a_fault(Kind::kCorrupt, {0, 1, 2, 3}, 0);
  damage.struck.damaged_step = 15;
  REQUIRE(verdict(an_incident(0, 5), {damage}) == Names{"damage_refused"});
  REQUIRE(verdict(an_incident(0, 10), {damage}).empty());
}

Done a_flip(int rank, int64_t step, Kind kind = Kind::kFlip) {
  Done done = a_fault(kind, {rank}, 0);
  done.struck.flipped_step = step;
  return done;
}

IncidentRecord a_difference(const std::string& what, std::vector<int> ranks, int64_t lost) {
  IncidentRecord incident = an_incident(0, lost);
  incident.kind = name_of(FaultKind::kCorruption);
  incident.what = what;
  incident.ranks = std::move(ranks);
  return incident;
}

TEST_CASE("a flipped bit must be found within the steps of --check-replicas, and its rank named") {
  using Names = std::vector<std::string>;
  const auto verdict = [](const char* mesh, const std::vector<IncidentRecord>& incidents) {
    Invariants invariants;
    check_incidents(incidents, {a_flip(2, 20)}, *Mesh::parse(mesh, 4), {.folder_steps = 10},
                    &invariants);
    return broken(invariants);
  };
  const auto odd = [](int64_t step, std::vector<int> ranks, int64_t lost) {
    return a_difference("rank 2 has not the parameters that ranks 0 and 1 agree on, after step " +
                            std::to_string(step),
                        std::move(ranks), lost);
  };
  REQUIRE(verdict("dp=4", {odd(36, {2}, 0)}).empty());
  REQUIRE(verdict("dp=4", {odd(37, {2}, 0)}) == Names{"found"});
  REQUIRE(verdict("dp=4", {odd(36, {3}, 0)}) == Names{"culprit"});
  REQUIRE(verdict("dp=4", {odd(36, {2}, 1)}) == Names{"steps_lost"});
  REQUIRE(verdict("dp=4", {}) == Names{"found"});
  REQUIRE(verdict("dp=4", {an_incident(0, 0)}) == Names{"found"});
  // Of a gradient: most are gone with their step, and what is found later is another one's.
  const auto gradient = [](const std::vector<IncidentRecord>& incidents) {
    Invariants invariants;
    check_incidents(incidents, {a_flip(2, 20, Kind::kFlipGradient)}, *Mesh::parse("dp=4", 4), {},
                    &invariants);
    return broken(invariants);
  };
  REQUIRE(gradient({}).empty());
  REQUIRE(gradient({odd(21, {2}, 0)}).empty());
  REQUIRE(gradient({odd(21, {3}, 0)}) == Names{"culprit"});
  REQUIRE(gradient({odd(60, {3}, 0)}).empty());
  const auto two = [](int64_t lost) {
    return a_difference("the replicas on ranks 0 and 2 differ after step 30, and no majority tells",
                        {}, lost);
  };
  REQUIRE(verdict("tp=2,dp=2", {two(26)}).empty());
  REQUIRE(verdict("tp=2,dp=2", {two(27)}) == Names{"steps_lost"});
}

TEST_CASE("numbers that a flipped bit was part of count once they are healed") {
  using Names = std::vector<std::string>;
  Metrics reference, healed, redone;
  for (int64_t step = 1; step <= 30; ++step) {
    reference.emplace(step, std::map<std::string, double>{{"loss", 2.0}});
    const double loss = step > 10 ? 2.01 : 2.0;
    healed.emplace(step, std::map<std::string, double>{{"loss", loss}});
    if (step <= 20) redone.emplace(step, std::map<std::string, double>{{"loss", loss}});
  }
  for (int64_t step = 9; step <= 30; ++step) {
    redone.emplace(step, std::map<std::string, double>{{"loss", 2.0}});
  }
  const auto verdict = [&](const Metrics& metrics, const char* mesh, int64_t flipped) {
    Invariants invariants;
    check_metrics(metrics, reference, 0, spoilt_by({a_flip(2, flipped)}, *Mesh::parse(mesh, 4), {}),
                  &invariants);
    return broken(invariants);
  };
  REQUIRE(verdict(redone, "tp=2,dp=2", 10).empty());
  REQUIRE(verdict(redone, "tp=2,dp=2", 12) == Names{"numbers"});  // step 12 was wrong before it
  REQUIRE(verdict(healed, "tp=2,dp=2", 10) == Names{"numbers"});  // its last line is wrong, too
  REQUIRE(verdict(healed, "dp=4", 10).empty());
  REQUIRE(verdict(healed, "dp=4", 12) == Names{"numbers"});
  healed.emplace(30, std::map<std::string, double>{{"loss", 2.2}});
  REQUIRE(verdict(healed, "dp=4", 10) == Names{"numbers"});  // not near
}

// Does `work` with a file system mounted on `folder` for its process alone; 77: no right to.
int on_own_disk(const std::string& folder, const std::function<bool()>& work) {
  const pid_t pid = ::fork();
  if (pid == 0) {
    const bool has_right = ::unshare(CLONE_NEWNS) == 0 &&
                           ::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) == 0 &&
                           ::mount("chaos-test", folder.c_str(), "tmpfs", 0, "size=1m") == 0;
    ::_exit(!has_right ? 77 : work() ? 0 : 1);
  }
  int state = 0;
  ::waitpid(pid, &state, 0);
  return exit_code_of_wait(state);
}

TEST_CASE("a link that is none, or no name at all, is refused") {
  for (const char* device : {"", "-x", "veth0; reboot", "no-such-device"}) {
    REQUIRE(may_shape(device).code() == Code::kFailedPrecondition);
    REQUIRE(packets_hit(device[0] == 'n' ? device : "no-such-device") == 0);
  }
}

TEST_CASE("only a disk of the folder's own is filled, and it is free again afterwards") {
  const TempFolder folder;
  REQUIRE_FALSE(own_disk(folder.path()).is_own);
  REQUIRE_FALSE(own_disk(folder.path() + "/none").is_own);
  REQUIRE_FALSE(own_disk("").is_own);
  const int code = on_own_disk(folder.path(), [&] {
    const OwnDisk disk = own_disk(folder.path());
    const Fault fault{.kind = Kind::kDiskFull};
    auto struck = strike(fault, {.checkpoints = folder.path()});
    const auto can_write = [&] {
      std::ofstream file(folder.path() + "/file");
      file << "a page" << std::flush;
      return file.good();
    };
    const bool was_full = struck.ok() && !can_write();
    if (struck.ok()) end_helpers(*struck);
    return disk.is_own && !disk.can_freeze && was_full && can_write();
  });
  if (code == 77) {
    WARN("skipped: mounting needs root");
    return;
  }
  REQUIRE(code == 0);
}

TEST_CASE("numbers are compared with those of an undisturbed run") {
  using Names = std::vector<std::string>;
  const Metrics reference{{1, {{"loss", 2.5}, {"tokens", 8}}},
                          {2, {{"loss", 2.25}, {"tokens", 16}}}};
  const auto verdict = [&](const Metrics& metrics, double tolerance,
                           const std::vector<Spoilt>& spoilt = {}) {
    Invariants invariants;
    check_metrics(metrics, reference, tolerance, spoilt, &invariants);
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
  REQUIRE(newest_saved_step(root) == 20);
  REQUIRE(newest_saved_step(root / "none") == -1);
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
