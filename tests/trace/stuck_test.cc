// Verdicts on hand-made events, for what a simulated cluster does not show well: groups of two,
// silence, circles over shared groups, decoys. Four ranks on two hosts call one all_reduce every
// 10 ms in each of their groups and tell of it ten times a second.
#include <convoy/trace/diagnose.h>

#include <catch2/catch.hpp>

#include <map>
#include <string>

using namespace convoy::trace;

namespace {

constexpr int64_t kMs = 1'000'000, kStart = 1'700'000'000'000 * kMs;

class Job {
 public:
  Job() : diagnoser(registry) {
    tp[0] = registry.group({"tp[0]", {0, 1}});
    tp[1] = registry.group({"tp[1]", {2, 3}});
    all = registry.group({"all", {0, 1, 2, 3}});
    JobInfo info;
    info.job = "test";
    info.world_size = 4;
    diagnoser.job(info);
    for (uint32_t r = 0; r < 4; ++r) state[r].life = Life::kRunning;
  }
  uint32_t signature(uint32_t group, const char* dtype = "float32", uint64_t bytes = 1024) {
    Signature s;
    s.group = group;
    s.operation = "all_reduce";
    s.dtype = dtype;
    s.reduction = "sum";
    s.bytes = bytes;
    return registry.signature(s);
  }
  uint32_t tp_of(uint32_t rank) const { return tp[rank / 2]; }
  GroupProgress& progress(uint32_t rank, uint32_t group) {
    for (GroupProgress& p : state[rank].progress) {
      if (p.group == group) return p;
    }
    GroupProgress p;
    p.group = group;
    state[rank].progress.push_back(p);
    return state[rank].progress.back();
  }
  // A call that is completed 1 ms later.
  void done(uint32_t rank, uint32_t signature) {
    GroupProgress& p = progress(rank, registry.signatures()[signature].group);
    p.issued = p.started = ++p.completed;
    Operation o{signature, p.issued, now, now, now + kMs};
    batch[rank].operations.push_back(o);
  }
  void pending(uint32_t rank, uint32_t signature, bool starts = true) {
    GroupProgress& p = progress(rank, registry.signatures()[signature].group);
    ++p.issued;
    if (starts) p.started = p.issued;
    state[rank].pending.push_back({signature, p.issued, now, starts ? now : 0, 0});
  }
  void exits(uint32_t rank, int code) {
    state[rank].life = Life::kExited;
    state[rank].exit_code = code;
  }
  void open(uint32_t rank, const char* name) {
    state[rank].open.push_back({registry.name(name), 0, now, 0, 0});
  }
  void tell(uint32_t rank) {
    Batch& b = batch[rank];
    b.rank = rank;
    b.received = now + kMs;
    b.host = ++b.number == 1 ? (rank < 2 ? "a" : "b") : "";
    state[rank].time = now;
    b.state = state[rank];
    diagnoser.batch(b);
    b.operations.clear();
  }
  // `hushed`: nothing is heard of this rank.
  void pass(int64_t ms, int hushed = -1) {
    for (int64_t t = 0; t < ms; t += 100) {
      now += 100 * kMs;
      for (uint32_t r = 0; r < 4; ++r) {
        if (static_cast<int>(r) != hushed) tell(r);
      }
      for (const Verdict& v : diagnoser.diagnose(now)) ++told[name_of(v.cls)];
    }
  }
  void train(int64_t ms, int hushed = -1) {
    for (int64_t t = 0; t < ms; t += 100) {
      for (int i = 0; i < 10; ++i) {
        for (uint32_t r = 0; r < 4; ++r) {
          done(r, signature(tp_of(r)));
          done(r, signature(all));
        }
        now += 9 * kMs;
      }
      now -= 90 * kMs;
      pass(100, hushed);
    }
  }
  const std::vector<Verdict>& verdicts() const { return diagnoser.verdicts(); }

  Registry registry;
  Diagnoser diagnoser;
  uint32_t tp[2] = {}, all = 0;
  int64_t now = kStart;
  std::map<uint32_t, Batch> batch;
  std::map<uint32_t, RankState> state;
  std::map<std::string, int> told;
};

using Ranks = std::vector<uint32_t>;

}  // namespace

TEST_CASE("training is no reason for a verdict") {
  Job job;
  job.train(5000);
  CHECK(job.verdicts().empty());
}

TEST_CASE("a rank that falls silent in a collective has crashed; who waits for it is no culprit") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) job.pending(r, job.signature(job.all));
  job.pass(2500, 3);
  CHECK(job.verdicts().empty());  // a heartbeat may be late
  job.pass(6000, 3);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kCrash);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{3});
  CHECK(job.told["CRASH"] == 1);
}

TEST_CASE("a rank whose stream stops while its peers go on is no crash") {
  Job job;
  job.train(3000);
  job.train(8000, 2);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kTelemetryLoss);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{2});
  job.train(4000);
  CHECK(job.verdicts()[0].cleared != 0);
}

TEST_CASE("a host that stops before a call is found through who waits for it") {
  Job job;
  job.train(3000);
  job.open(1, names::kForward);
  job.pending(0, job.signature(job.tp[0]));
  for (const uint32_t r : {2U, 3U}) job.pending(r, job.signature(job.all));
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kHostHang);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{1});
  CHECK(job.verdicts()[0].summary.find("forward") != std::string::npos);
}

TEST_CASE("a long data load, or a checkpoint, is no hang") {
  Job job;
  job.train(3000);
  job.open(1, GENERATE(names::kData, names::kCheckpoint));
  for (const uint32_t r : {0U, 2U, 3U}) job.pending(r, job.signature(job.all));
  job.pass(8000);
  CHECK(job.verdicts().empty());
}

TEST_CASE("what is called and does not start is the GPU's") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) job.pending(r, job.signature(job.all), r != 2);
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kGpuStuck);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{2});
}

TEST_CASE("two ranks that call two groups in opposite order wait for each other") {
  Job job;
  job.train(3000);
  job.pending(0, job.signature(job.tp[0]));
  for (uint32_t r = 1; r < 4; ++r) job.pending(r, job.signature(job.all));
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kDeadlockCycle);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{0, 1});
}

TEST_CASE("of two ranks that differ, the one that never did so before is wrong; nothing hangs") {
  Job job;
  job.train(3000);
  job.done(0, job.signature(job.tp[0]));
  job.done(1, job.signature(job.tp[0], "int32"));
  job.train(2000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kMismatchDtype);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{1});
  CHECK(job.verdicts()[0].cost == 0);
}

TEST_CASE(
    "a collective that runs on all and ends nowhere is the network's, without a link as far as "
    "is known") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) job.pending(r, job.signature(job.all));
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kNetHang);
  CHECK(job.verdicts()[0].culprit.links.empty());
  CHECK(job.verdicts()[0].culprit.groups == std::vector<uint32_t>{job.all});
}

TEST_CASE("a batch that is told twice counts once, and another generation begins anew") {
  Job job;
  job.train(1000);
  job.tell(0);
  job.batch[0].number -= 1;
  job.tell(0);
  for (uint32_t r = 0; r < 4; ++r) job.pending(r, job.signature(job.all));
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  JobInfo next;
  next.job = "test";
  next.generation = 1;
  next.world_size = 2;
  job.diagnoser.job(next);
  const auto told = job.diagnoser.diagnose(job.now);
  REQUIRE(told.size() == 1);
  CHECK(told[0].cleared == job.now);
}

TEST_CASE("of ranks that exit together, the one that the others were waiting for was first") {
  Job job;
  job.train(3000);
  for (const uint32_t r : {0U, 1U, 3U}) job.pending(r, job.signature(job.all));
  for (uint32_t r = 0; r < 4; ++r) job.exits(r, 1);
  job.pass(1000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kCrash);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{2});
}

TEST_CASE("ranks that a mismatch has ended with an error have not crashed") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) {
    job.pending(r, job.signature(job.all, "float32", r == 1 ? 2048 : 1024));
    job.exits(r, 1);
  }
  job.pass(1000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kMismatchSize);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{1});
  CHECK(job.verdicts()[0].cost == 1);
}

TEST_CASE("of ranks that died between two looks, the one that was killed was first") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) {
    job.pending(r, job.signature(job.all));
    job.exits(r, 1);
  }
  job.state[2].life = Life::kKilled;
  job.state[2].exit_code = 9;
  job.pass(1000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kCrash);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{2});
}

TEST_CASE("a rank that is stopped within a collective hangs, and not the network") {
  Job job;
  job.train(3000);
  for (uint32_t r = 0; r < 4; ++r) job.pending(r, job.signature(job.all));
  job.state[1].life = Life::kStopped;
  job.pass(3000);
  REQUIRE(job.verdicts().size() == 1);
  CHECK(job.verdicts()[0].cls == Class::kHostHang);
  CHECK(job.verdicts()[0].culprit.ranks == Ranks{1});
}
