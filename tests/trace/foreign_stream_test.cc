// Streams as other programs write them are analysed as a running job's: batches that hold all of a
// rank, in no order, without a time of arrival or clock samples, and ranks that tell of nothing but
// steps and operations. The verdicts are those of the stream as it came.
#include "tests/sim/recording.h"
#include "tests/temp_folder.h"
#include <convoy/trace/replay.h>
#include <convoy/trace/stream.h>

#include <catch2/catch.hpp>

#include <algorithm>
#include <map>
#include <memory>
#include <string>

using namespace convoy;
using namespace convoy::trace;

namespace {

struct Simulated {
  Registry registry;
  sim::Recording all;
  sim::Outcome outcome;
};

// A rank is slow for a while, and another one dies later.
sim::Cluster two_faults() {
  sim::Cluster c;
  c.mesh = "tp=2,dp=4";
  c.steps = 80;
  c.ranks_per_host = 4;
  c.clocks.offset_ms = 300;
  c.faults = {sim::parse_fault("slow_compute:rank=3,factor=1.4,from=15,until=40").value(),
              sim::parse_fault("crash:rank=6,from=70").value()};
  return c;
}

void simulate(const sim::Cluster& c, Simulated& to) {
  const auto outcome = sim::simulate(c, to.registry, to.all);
  REQUIRE(outcome.status().to_string() == "ok");
  to.outcome = *outcome;
}

void join(Batch& whole, const Batch& next) {
  const auto append = [](auto& to, const auto& from) {
    to.insert(to.end(), from.begin(), from.end());
  };
  append(whole.operations, next.operations);
  append(whole.spans, next.spans);
  append(whole.counters, next.counters);
  if (next.state) whole.state = next.state;
  whole.received = std::max(whole.received, next.received);
}

// One batch of each rank, the last rank first.
std::vector<Batch> one_of_each(const std::vector<Batch>& batches) {
  std::map<uint32_t, Batch> whole;
  for (const Batch& b : batches) {
    const auto [at, is_new] = whole.try_emplace(b.rank, b);
    if (!is_new) join(at->second, b);
  }
  std::vector<Batch> all;
  for (auto& [rank, b] : whole) all.insert(all.begin(), std::move(b));
  return all;
}

std::unique_ptr<Replay> analysed(const Simulated& from, const std::vector<Batch>& batches) {
  const TempFolder folder;
  const std::string path = folder / "run.jsonl";
  auto writer = JsonStreamWriter::create(path, from.registry).value();
  for (const JobInfo& job : from.all.jobs) writer->job(job);
  for (const ClockSample& sample : from.all.samples) writer->clock(sample);
  for (const Batch& b : batches) writer->batch(b);
  REQUIRE(writer->close().ok());
  auto result = replay_stream(path);
  REQUIRE(result.status().to_string() == "ok");
  return std::move(result).value();
}

const Verdict& only(const Replay& replay, Class cls) {
  const auto is_it = [&](const Verdict& v) { return v.cls == cls; };
  REQUIRE(std::ranges::count_if(replay.verdicts, is_it) == 1);
  return *std::ranges::find_if(replay.verdicts, is_it);
}

void check_both_faults(const Replay& replay, const sim::Outcome& outcome) {
  REQUIRE(replay.verdicts.size() == 2);
  const Verdict& slow = only(replay, Class::kSlowCompute);
  CHECK(slow.culprit.ranks == std::vector<uint32_t>{3});
  CHECK(std::abs(slow.onset - outcome.truths[0].onset) < 4'000'000'000);
  CHECK(slow.told - slow.onset > 0);
  CHECK(slow.told - slow.onset < 15'000'000'000);
  CHECK(slow.cleared > slow.told);
  CHECK(only(replay, Class::kCrash).culprit.ranks == std::vector<uint32_t>{6});
}

}  // namespace

TEST_CASE("all of a rank in one batch, rank by rank, with or without a time of arrival") {
  Simulated simulated;
  simulate(two_faults(), simulated);
  std::vector<Batch> batches = simulated.all.batches;
  SECTION("as it came") {}
  SECTION("sorted by rank") {
    std::ranges::stable_sort(batches, {}, &Batch::rank);
  }
  SECTION("sorted by rank, without a time of arrival") {
    std::ranges::stable_sort(batches, {}, &Batch::rank);
    for (Batch& b : batches) b.received = 0;
  }
  SECTION("in one batch") {
    batches = one_of_each(batches);
  }
  SECTION("in one batch, without a time of arrival") {
    batches = one_of_each(batches);
    for (Batch& b : batches) b.received = 0;
  }
  check_both_faults(*analysed(simulated, batches), simulated.outcome);
}

TEST_CASE("batches hold many short steps: all of them are judged, and in their order") {
  Simulated simulated;
  sim::Cluster c;
  c.mesh = "pp=4,dp=2";
  c.ranks_per_host = 4;
  c.steps = 80;
  c.model.layers = 4;
  c.model.hidden = c.model.sequence = 512;
  c.faults = {sim::parse_fault("slow_compute:rank=5,factor=1.4,from=20").value()};
  simulate(c, simulated);
  REQUIRE(simulated.outcome.end - simulated.outcome.begin < 10'000'000'000);
  const auto replay = analysed(simulated, simulated.all.batches);
  REQUIRE(replay->verdicts.size() == 1);
  CHECK(replay->verdicts[0].cls == Class::kSlowCompute);
  CHECK(replay->verdicts[0].culprit.ranks == std::vector<uint32_t>{5});
  CHECK(std::abs(replay->verdicts[0].onset - simulated.outcome.truths[0].onset) < 200'000'000);
}

TEST_CASE("nothing but steps and operations: who computes slowly shows between operations") {
  Simulated simulated;
  simulate(two_faults(), simulated);
  const uint32_t step = simulated.registry.name(names::kStep);
  for (Batch& b : simulated.all.batches) {
    std::erase_if(b.spans, [&](const SpanEvent& s) { return s.name != step; });
    b.counters.clear();
    if (b.state) b.state->open.clear();
  }
  check_both_faults(*analysed(simulated, simulated.all.batches), simulated.outcome);
}
