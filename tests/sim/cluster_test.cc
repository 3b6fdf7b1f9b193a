// What a simulated cluster tells, checked against the contract of event.h: every operation once and
// by all its members, times in order, sequences without gaps, the same events for the same seed.
// Whether faults look as they should is in fault_test.cc.
#include "tests/sim/recording.h"

#include <catch2/catch.hpp>

#include <set>

using namespace convoy;
using namespace convoy::sim;

namespace {

Cluster small(const char* mesh) {
  Cluster c;
  c.mesh = mesh;
  c.steps = 6;
  c.model.hidden = 2048;
  c.model.layers = 16;
  c.model.micro_batches = 4;
  c.telemetry.late_share = 0.01;
  return c;
}

struct Told {
  trace::Registry registry;
  Recording recording;
  Outcome outcome;
};

void tell(const Cluster& cluster, Told& told) {
  const auto outcome = simulate(cluster, told.registry, told.recording);
  REQUIRE(outcome.status().to_string() == "ok");
  told.outcome = *outcome;
}

const char* const kMeshes[] = {
    "dp=8",           "tp=8,dp=2",      "tp=2,pp=4,dp=2",      "pp=2,dp=4",
    "cp=2,tp=2,dp=4", "ep=4,dp=4,pp=2", "tp=4,cp=2,pp=2,dp=2", "pp=4"};

}  // namespace

TEST_CASE("every operation is told once, in order, by all members of its group") {
  const auto* const mesh = GENERATE(from_range(std::begin(kMeshes), std::end(kMeshes)));
  CAPTURE(mesh);
  Told t;
  tell(small(mesh), t);
  CHECK_FALSE(t.outcome.hung);
  CHECK(t.outcome.step_ends.size() == 6);
  REQUIRE(t.recording.jobs.size() == 1);
  const uint32_t ranks = t.recording.jobs[0].world_size;
  // By (group, sender, receiver, sequence): who has told it.
  std::map<std::tuple<uint32_t, int, int, uint32_t>, std::set<uint32_t>> members;
  std::map<std::tuple<uint32_t, int, int, uint32_t>, std::set<std::string>> signatures;
  std::map<uint32_t, uint64_t> numbers;
  int64_t received = 0;
  for (const trace::Batch& b : t.recording.batches) {
    REQUIRE(b.rank < ranks);
    CHECK(b.number == ++numbers[b.rank]);
    CHECK(b.host.empty() == (b.number > 1));
    CHECK(b.received >= received);
    received = b.received;
    REQUIRE(b.state);
    for (const trace::Operation& o : b.operations) {
      const trace::Signature& s = t.registry.signatures()[o.signature];
      CHECK(o.issued > 0);
      CHECK(o.issued <= o.started);
      CHECK(o.started <= o.completed);
      CHECK(o.completed <= b.state->time);
      const bool sends = s.operation == "send";
      const int self = static_cast<int>(b.rank);
      const std::tuple key(s.group, s.is_message() ? (sends ? self : s.peer) : -1,
                           s.is_message() ? (sends ? s.peer : self) : -1, o.sequence);
      CHECK(members[key].insert(b.rank).second);
      signatures[key].insert(s.is_message() ? "message" : s.operation + std::to_string(s.bytes));
    }
  }
  for (const auto& [key, who] : members) {
    const auto& [group, sender, receiver, sequence] = key;
    const size_t all = sender >= 0 ? 2 : t.registry.groups()[group].ranks.size();
    CHECK(who.size() == all);
    CHECK(signatures[key].size() == 1);
    if (sequence > 1) CHECK(members.count({group, sender, receiver, sequence - 1}) == 1);
  }
  CHECK(members.size() > 20);
}

TEST_CASE("a collective ends nowhere before its last member has come") {
  Cluster c = small("tp=4,dp=2,pp=2");
  c.clocks = {.uptimes = false, .offset_ms = 0, .drift_us_per_s = 0};
  Told t;
  tell(c, t);
  std::map<std::pair<uint32_t, uint32_t>, std::pair<int64_t, int64_t>> seen;  // last start, end
  for (const trace::Batch& b : t.recording.batches) {
    for (const trace::Operation& o : b.operations) {
      const trace::Signature& s = t.registry.signatures()[o.signature];
      if (s.is_message()) continue;
      auto& [start, end] = seen.try_emplace({s.group, o.sequence}, 0, INT64_MAX).first->second;
      start = std::max(start, o.started);
      end = std::min(end, o.completed);
    }
  }
  for (const auto& [key, times] : seen) CHECK(times.first < times.second);
}

TEST_CASE("spans of a thread nest, steps are numbered from 1 on") {
  Told t;
  tell(small("tp=2,pp=2,dp=2"), t);
  const uint32_t step = *t.registry.find_name(trace::names::kStep);
  std::map<std::pair<uint32_t, uint32_t>, std::vector<trace::SpanEvent>> spans;
  for (const trace::Batch& b : t.recording.batches) {
    for (const trace::SpanEvent& s : b.spans) spans[{b.rank, s.thread}].push_back(s);
  }
  CHECK(spans.size() == 16);
  for (auto& [key, of] : spans) {
    std::sort(of.begin(), of.end(), [](const auto& a, const auto& b) {
      return a.begin != b.begin ? a.begin < b.begin : a.end > b.end;
    });
    std::vector<int64_t> ends;
    uint64_t number = 0;
    for (const trace::SpanEvent& s : of) {
      CHECK(s.begin <= s.end);
      while (!ends.empty() && ends.back() <= s.begin) ends.pop_back();
      if (!ends.empty()) CHECK(s.end <= ends.back());
      ends.push_back(s.end);
      if (s.name == step) CHECK(s.value == ++number);
    }
    if (key.second == 0) CHECK(number == 6);
  }
}

TEST_CASE("the same seed tells the same events, another one others") {
  Cluster c = small("tp=2,pp=2,dp=4");
  c.faults.push_back({.cls = trace::Class::kSlowCompute, .from = 2});
  Told a, b, other;
  tell(c, a);
  tell(c, b);
  CHECK(a.recording.batches == b.recording.batches);
  CHECK(a.recording.samples == b.recording.samples);
  c.seed = 2;
  tell(c, other);
  CHECK_FALSE(a.recording.batches == other.recording.batches);
}

TEST_CASE("clock samples hold the host's clock within their error") {
  Cluster c = small("dp=16");
  c.steps = 30;
  Told t;
  tell(c, t);
  std::map<std::string, std::vector<trace::ClockSample>> of;
  for (const trace::ClockSample& s : t.recording.samples) of[s.host].push_back(s);
  CHECK(of.size() == 2);
  for (const auto& [host, samples] : of) {
    REQUIRE(samples.size() >= 2);
    for (size_t i = 1; i < samples.size(); ++i) {
      // Drift is at most 30 us/s.
      const auto& a = samples[i - 1];
      const auto& b = samples[i];
      const int64_t host_passed = b.host_time - a.host_time, passed = b.root_time - a.root_time;
      CHECK(std::abs(host_passed - passed) <= a.error + b.error + passed * 31 / 1'000'000);
    }
  }
}

TEST_CASE("lost events are counted, late batches keep a rank's order") {
  Cluster c = small("dp=8");
  c.steps = 20;
  c.telemetry.loss = 0.05;
  c.telemetry.late_share = 0.3;
  c.telemetry.late_s = 2;
  c.telemetry.period_s = 0.1;
  c.clocks = {.uptimes = false, .offset_ms = 0, .drift_us_per_s = 0};
  Told with, without;
  tell(c, with);
  c.telemetry.loss = 0;
  tell(c, without);
  uint64_t lost = 0;
  std::map<uint32_t, uint64_t> numbers;
  size_t late = 0;
  for (const trace::Batch& b : with.recording.batches) {
    CHECK(b.number == ++numbers[b.rank]);
    lost = std::max(lost, b.state->lost);
  }
  CHECK(lost > 0);
  CHECK(with.outcome.operations < without.outcome.operations);
  // On the root's clock, within the drift and the offsets, which are left out here.
  for (const trace::Batch& b : without.recording.batches) {
    if (b.received - b.state->time > 100'000'000) ++late;
  }
  CHECK(late > without.recording.batches.size() / 10);
  CHECK(late < without.recording.batches.size());
}

TEST_CASE("what cannot be is refused") {
  trace::Registry registry;
  Recording recording;
  const auto refused = [&](const Cluster& c) {
    return simulate(c, registry, recording).status().message();
  };
  Cluster c;
  c.mesh = "xp=2";
  CHECK(refused(c).find("xp") != std::string::npos);
  c.mesh = "tp=0";
  CHECK_FALSE(refused(c).empty());
  c.mesh = "tp=99999999999,dp=3";
  CHECK_FALSE(refused(c).empty());
  c = small("dp=8");
  c.steps = 0;
  CHECK(refused(c).find("steps") != std::string::npos);
  c = small("dp=8");
  c.faults = {{.cls = trace::Class::kSlowCompute, .rank = 8}};
  CHECK(refused(c).find("slow_compute") != std::string::npos);
  c.faults = {{.cls = trace::Class::kMessageUnmatched}};
  CHECK(refused(c).find("pp") != std::string::npos);
  c.faults = {{.cls = trace::Class::kMismatchRoot}};
  CHECK(refused(c).find("no place") != std::string::npos);
  c = small("dp=8");
  c.schedule = "nonsense";
  c.mesh = "pp=4,dp=2";
  CHECK(refused(c).find("nonsense") != std::string::npos);
}

TEST_CASE("faults are read from text") {
  const auto f = parse_fault("slow_compute:rank=17,factor=1.25,from=20");
  REQUIRE(f.ok());
  CHECK(f->cls == trace::Class::kSlowCompute);
  CHECK(f->rank == 17);
  CHECK(f->factor == 1.25);
  CHECK(f->from == 20);
  CHECK(parse_fault("crash")->cls == trace::Class::kCrash);
  for (const char* bad : {"", "slow", "crash:rank", "crash:rank=", "crash:rank=-1", "crash:x=1",
                          "crash:rank=1x", "slow_compute:factor=0"}) {
    CAPTURE(bad);
    CHECK_FALSE(parse_fault(bad).ok());
  }
}
