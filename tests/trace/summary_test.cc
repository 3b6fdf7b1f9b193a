// What the views say. Method: a small job is made up event by event, so that each figure can be
// worked out by hand or by a plainer program, and the JSON is read back.
#include "trace/summary/phases.h"
#include <convoy/trace/summary.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <random>
#include <set>
#include <sstream>

// What a case does not name stands at its default.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace convoy::trace {
namespace {

using Json = nlohmann::json;
constexpr int64_t kMs = 1'000'000;

// Four ranks, tp 2 × dp 2, on hosts a and b; all clocks are the root's.
struct Job {
  Registry registry;
  Summary summary{registry};
  uint64_t number[4] = {};

  Job() {
    summary.job({.job = "test", .world_size = 4, .mesh = {{"tp", 2}, {"dp", 2}}});
    registry.group({"tp[0]", {0, 1}});
    registry.group({"tp[1]", {2, 3}});
    registry.group({"dp[0]", {0, 2}});
  }
  Batch batch(uint32_t rank) {
    return {.rank = rank, .number = ++number[rank], .host = rank < 2 ? "a" : "b", .pid = 10};
  }
  uint32_t signature(uint32_t group, const std::string& operation, uint64_t bytes,
                     int32_t peer = -1) {
    return registry.signature(
        {.group = group, .operation = operation, .dtype = "float32", .peer = peer, .bytes = bytes});
  }
  SpanEvent span(const char* name, int64_t begin_ms, int64_t end_ms, uint64_t value = 0) {
    return {.name = registry.name(name),
            .thread = 1,
            .begin = begin_ms * kMs,
            .end = end_ms * kMs,
            .value = value};
  }
  Json rank(uint32_t r) { return Json::parse(*summary.rank(r)); }
};

size_t index_of(const Json& names, const std::string& name) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (names[i] == name) return i;
  }
  FAIL("no part " << name);
  return 0;
}

TEST_CASE("a step is cut into its parts") {
  Job job;
  Batch batch = job.batch(0);
  batch.spans = {job.span(names::kStep, 1000, 1100, 7), job.span(names::kData, 1000, 1010),
                 job.span(names::kForward, 1010, 1040), job.span(names::kAwaitStage, 1030, 1035),
                 job.span(names::kOptimizer, 1080, 1095)};
  const uint32_t tp = job.signature(0, "all_reduce", 4096);
  const uint32_t dp = job.signature(2, "all_reduce", 1 << 20);
  batch.operations = {// Blocks the forward pass; called 5 ms before it runs.
                      {.signature = tp,
                       .sequence = 1,
                       .issued = 1010 * kMs,
                       .started = 1015 * kMs,
                       .completed = 1020 * kMs},
                      // Beside the forward pass first, then exposed.
                      {.signature = dp,
                       .sequence = 1,
                       .issued = 1025 * kMs,
                       .started = 1025 * kMs,
                       .completed = 1060 * kMs}};
  job.summary.batch(batch);
  job.summary.finish();

  const Json rank = job.rank(0);
  REQUIRE(rank["window"]["step"] == Json{7});
  CHECK(rank["window"]["total_us"][0] == 100000);
  const Json& parts = rank["window"]["parts_us"][0];
  const auto part = [&](const char* name) { return parts[index_of(rank["parts"], name)]; };
  CHECK(part("data") == 10000);
  CHECK(part("compute") == 20000);  // 30 of forward − 5 − 5
  CHECK(part("pipeline wait") == 5000);
  CHECK(part("tp collectives") == 5000);
  CHECK(part("dp collectives") == 20000);
  CHECK(part("optimizer") == 15000);
  CHECK(part("other") == 25000);
}

TEST_CASE(
    "groups whose ranks are not known, and ranks that are not in theirs, have no collectives") {
  Job job;
  job.registry.group({"nccl/1", {}});
  job.registry.group({"odd", {3, 0, 1}});
  for (const uint32_t group : {0, 1, 2, 3, 4}) {
    Batch batch = job.batch(2);
    batch.operations = {{.signature = job.signature(group, "all_reduce", 4096),
                         .sequence = 1,
                         .issued = 1000 * kMs,
                         .completed = 1010 * kMs}};
    job.summary.batch(batch);
    const auto instance = job.summary.instance(group, 1);
    CHECK(instance.ok() == (group == 1 || group == 2));
  }
}

TEST_CASE("where kernels are known, all that they don't cover is exposed") {
  const auto parts =
      split(0, 100000,
            {{.begin = 0, .end = 90000, .stretch = Stretch::kForward},
             {.begin = 10000, .end = 50000, .stretch = Stretch::kKernel},
             {.begin = 40000, .end = 70000, .stretch = Stretch::kCollective, .kind = 3}});
  CHECK(parts[static_cast<size_t>(Phase::kCompute)] == 40);
  CHECK(parts[kPhases + 3] == 20);
  CHECK(parts[static_cast<size_t>(Phase::kOther)] == 40);
}

TEST_CASE("parts of random steps add up to the step") {
  std::mt19937 random(7);
  for (int round = 0; round < 200; ++round) {
    std::vector<Interval> intervals;
    for (int i = 0; i < 40; ++i) {
      const int64_t begin = static_cast<int64_t>(random() % 1000000) - 100000;
      intervals.push_back({.begin = begin,
                           .end = begin + static_cast<int64_t>(random() % 300000),
                           .stretch = static_cast<Stretch>(random() % 11),
                           .kind = static_cast<uint8_t>(random() % kKinds),
                           .blocking = random() % 2 == 0});
    }
    std::ranges::sort(intervals, {}, &Interval::begin);
    float sum = 0;
    for (const float part : split(0, 800000, intervals)) {
      CHECK(part >= 0);
      sum += part;
    }
    CHECK(sum == Approx(800).epsilon(1e-3));
  }
}

TEST_CASE("a collective is joined over its ranks, with those that have not come") {
  Job job;
  const uint32_t tp = job.signature(1, "all_gather", 1000);
  Batch first = job.batch(2), second = job.batch(3);
  first.operations = {{.signature = tp,
                       .sequence = 1,
                       .issued = 100 * kMs,
                       .started = 100 * kMs,
                       .completed = 130 * kMs}};
  second.operations = {{.signature = tp,
                        .sequence = 1,
                        .issued = 120 * kMs,
                        .started = 120 * kMs,
                        .completed = 131 * kMs}};
  first.state = RankState{.time = 200 * kMs,
                          .life = Life::kRunning,
                          .pending = {{.signature = tp, .sequence = 2, .issued = 150 * kMs}}};
  job.summary.batch(first);
  job.summary.batch(second);

  const Json group = Json::parse(*job.summary.group(1));
  REQUIRE(group["instances"].size() == 2);
  CHECK(group["instances"][0]["completed"] == 2);
  CHECK(group["instances"][0]["last_rank"] == 3);
  CHECK(group["instances"][1]["issued"] == 1);
  const Json whole = Json::parse(*job.summary.instance(1, 1));
  CHECK(whole["members"]["issued_us"] == Json{0, 20000});
  CHECK(whole["members"]["completed_us"] == Json{30000, 31000});
  const Json open = Json::parse(*job.summary.instance(1, 2));
  CHECK(open["members"]["rank"] == Json{2, 3});
  CHECK(open["members"]["completed_us"] == Json{nullptr, nullptr});
  CHECK(open["members"]["issued_us"] == Json{0, nullptr});
  CHECK(job.summary.instance(1, 3).status().code() == Code::kNotFound);
  CHECK(job.summary.group(99).status().code() == Code::kNotFound);

  const Json groups = Json::parse(job.summary.groups());
  CHECK(groups["groups"][0]["name"] == "tp[1]");  // waits: first
  CHECK(groups["groups"][0]["waiting"] == 1);
  CHECK(groups["groups"][0]["waiting_us"] == 50000);
  CHECK(groups["groups"][0]["skew_us"] == 20000);
  CHECK(groups["groups"][0]["transfer_us"] == 11000);
  const Json& row = groups["operations"][0];
  CHECK(row["kind"] == "tp");
  CHECK(row["count"] == 2);
  CHECK(row["bytes_per_s"].get<double>() == Approx(1000 / 0.011).epsilon(0.01));
}

TEST_CASE("members that call something else are told") {
  Job job;
  Batch first = job.batch(0), second = job.batch(1);
  first.operations = {{.signature = job.signature(0, "all_reduce", 1000),
                       .sequence = 1,
                       .issued = 1,
                       .started = 1,
                       .completed = 9}};
  second.operations = {{.signature = job.signature(0, "all_gather", 1000),
                        .sequence = 1,
                        .issued = 1,
                        .started = 1,
                        .completed = 9}};
  job.summary.batch(first);
  job.summary.batch(second);
  const Json instance = Json::parse(*job.summary.instance(0, 1));
  CHECK(instance["differ"] == true);
  CHECK(instance["texts"].size() == 2);
  CHECK(instance["members"]["text"] == Json{0, 1});
}

TEST_CASE("links: rates over the last seconds, and against the median of their like") {
  Job job;
  const auto counter = [&](const char* name, int32_t peer, int64_t s, uint64_t value) {
    return CounterEvent{job.registry.name(name), peer, s * 1000 * kMs, value};
  };
  for (uint32_t rank = 0; rank < 4; ++rank) {
    Batch batch = job.batch(rank);
    const auto peer = static_cast<int32_t>((rank + 1) % 4);
    const uint64_t wait = rank == 1 ? 4000 * kMs : 1000 * kMs;  // 1 → 2 takes four times as long
    batch.counters = {counter(names::kSentBytes, peer, 1, 500),
                      counter(names::kSendWait, peer, 1, 7),
                      counter(names::kSentBytes, peer, 9, 500 + 8'000'000),
                      counter(names::kSendWait, peer, 9, 7 + wait)};
    job.summary.batch(batch);
  }
  const Json links = Json::parse(job.summary.links());
  CHECK(links["by"] == "rank");
  REQUIRE(links["all"] == 4);
  const Json& columns = links["links"];
  CHECK(columns["from"] == Json{0, 1, 2, 3});
  CHECK(columns["to"] == Json{1, 2, 3, 0});
  CHECK(columns["bytes_per_s"][0] == 1'000'000);
  CHECK(columns["send_wait"][1] == 0.5);
  CHECK(columns["busy_bytes_per_s"][1] == 2'000'000);
  CHECK(columns["norm"][1].get<double>() == Approx(4));  // against 3 → 0, between hosts as well
}

TEST_CASE("links by messages: how fast one is, is told where it is known when they began") {
  Job job;
  const uint32_t all = job.registry.group({"all", {0, 1, 2, 3}});
  const bool known = GENERATE(false, true);
  Batch batch = job.batch(1);
  for (uint32_t i = 0; i < 10; ++i) {
    const int64_t at = (100'000 + 500 * i) * kMs;
    batch.operations.push_back({.signature = job.signature(all, "recv", 1'000'000, 0),
                                .sequence = i + 1,
                                .issued = at - 100 * kMs,
                                .started = known ? at : 0,
                                .completed = at + 10 * kMs});
  }
  batch.counters = {CounterEvent{job.registry.name(names::kProcessor), -1, 100'000 * kMs, 1},
                    CounterEvent{job.registry.name(names::kProcessor), -1, 105'000 * kMs, 2}};
  job.summary.batch(batch);
  const Json links = Json::parse(job.summary.links())["links"];
  CHECK(links["from"] == Json{0});
  CHECK(links["bytes_per_s"][0] == 2'000'000);
  CHECK(links["busy_bytes_per_s"][0] == (known ? 100'000'000 : 0));
  CHECK(links["norm"][0] == (known ? 1 : 0));
}

TEST_CASE("liveness and losses") {
  Job job;
  Batch here = job.batch(0), gone = job.batch(1), later = job.batch(0);
  here.state = RankState{.time = 1000 * kMs, .life = Life::kRunning};
  gone.state = RankState{.time = 1000 * kMs, .life = Life::kKilled, .exit_code = 9, .lost = 5};
  later.number = 5;  // three before it are missing
  later.state = RankState{.time = 9000 * kMs, .life = Life::kRunning, .shed = 2};
  Batch silent = job.batch(2);
  silent.state = RankState{.time = 1000 * kMs, .life = Life::kRunning};
  for (const Batch& b : {here, gone, silent, later}) job.summary.batch(b);
  const Json overview = Json::parse(job.summary.overview());
  CHECK(overview["ranks"]["heard"] == 3);
  CHECK(overview["ranks"]["silent"] == 1);
  CHECK(overview["ranks"]["killed"] == 1);
  CHECK(overview["recorded"]["lost"] == 5);
  CHECK(overview["recorded"]["shed"] == 2);
  CHECK(overview["recorded"]["batches_missing"] == 3);
  const Json ranks = Json::parse(job.summary.ranks());
  CHECK(ranks["life"] == Json{"running", "killed", "silent", "not heard"});
}

TEST_CASE("steps of the job; histories stay small however long it runs") {
  Job job;
  constexpr uint32_t kSteps = 20000;
  for (uint32_t rank = 0; rank < 4; ++rank) {
    for (uint32_t from = 1; from <= kSteps; from += 10) {
      Batch batch = job.batch(rank);
      for (uint32_t step = from; step < from + 10; ++step) {
        const int64_t begin = step * 100;
        batch.spans.push_back(job.span(names::kStep, begin, begin + 50 + rank, step));
      }
      job.summary.batch(batch);
    }
  }
  job.summary.finish();
  const Json steps = Json::parse(job.summary.overview())["steps"];
  CHECK(steps["step"].size() <= 401);
  CHECK(steps["step"].back() == kSteps);
  const Json rank = job.rank(3);
  CHECK(rank["window"]["step"].size() == 32);
  CHECK(rank["past"]["step"].size() <= 64);
  for (const Json& mean : rank["past"]["mean_us"])
    CHECK(mean.get<double>() == Approx(53000).margin(2));
}

TEST_CASE("numbers that can't be are ignored") {
  Job job;
  Batch batch = job.batch(0);
  batch.operations = {
      {.signature = 4000000, .sequence = 1, .issued = 1, .completed = 2},
      {.signature = job.signature(77, "all_reduce", 1), .sequence = 1},
      {.signature = job.signature(1, "all_reduce", 1), .sequence = 1, .issued = 5, .completed = 9}};
  batch.spans = {{.name = 999999, .begin = 1, .end = 2}, job.span(names::kStep, 20, 10, 1)};
  batch.counters = {{.name = 999999, .peer = 3, .time = 1, .value = 1},
                    {.name = job.registry.name(names::kSentBytes), .peer = INT32_MAX, .time = 1}};
  job.summary.batch(batch);
  Batch unknown = job.batch(0);
  unknown.rank = 4000000000U;
  job.summary.batch(unknown);
  job.summary.finish();
  CHECK(Json::parse(job.summary.overview())["recorded"]["ignored"] == 3);
  CHECK(job.rank(0)["window"]["step"].empty());
  CHECK(job.summary.rank(4).status().code() == Code::kNotFound);
}

TEST_CASE("metrics are in Prometheus' format") {
  Job job;
  job.summary.job({.job = "a \"quoted\"\nname\\", .world_size = 2});
  Batch batch = job.batch(0);
  batch.spans = {job.span(names::kStep, 100, 150, 3)};
  batch.operations = {{.signature = job.signature(0, "all_reduce", 3000),
                       .sequence = 1,
                       .issued = 1,
                       .started = 1,
                       .completed = 2'000'001}};
  job.summary.batch(batch);
  job.summary.finish();
  job.summary.set_verdicts(
      {{.cls = Class::kSlowLink, .cost = 0.25}, {.cls = Class::kCrash, .cleared = 5}});
  std::istringstream lines(job.summary.metrics());
  std::string line, family;
  std::set<std::string> families;
  size_t samples = 0;
  while (std::getline(lines, line)) {
    if (line.starts_with("# TYPE ")) {
      family = line.substr(7, line.find(' ', 7) - 7);
      CHECK(families.insert(family).second);
    } else if (!line.starts_with("# HELP ")) {
      CHECK(line.starts_with(family));
      CHECK(line.find(R"({job_name="a \"quoted\"\nname\\")") != std::string::npos);
      size_t end = 0;
      std::stod(line.substr(line.rfind(' ') + 1), &end);
      CHECK(end > 0);
      ++samples;
    }
  }
  CHECK(samples > 30);
  const std::string text = job.summary.metrics();
  CHECK(text.find("class=\"SLOW_LINK\"} 1\n") != std::string::npos);
  CHECK(text.find("class=\"CRASH\"} 0\n") != std::string::npos);
  CHECK(text.find("size_le=\"4096\"") != std::string::npos);
  CHECK(text.find("over_ranks=\"median\"} 0.05\n") != std::string::npos);
}

}  // namespace
}  // namespace convoy::trace
