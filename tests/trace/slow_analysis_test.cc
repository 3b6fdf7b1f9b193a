// What SlowAnalysis says about hand-made jobs: each class with a decoy that looks like it, and jobs
// about which it must be silent. Whole simulated clusters are the benchmark's business.
#include "trace/analysis/slow/slow_analysis.h"

#include <catch2/catch.hpp>

#include <functional>
#include <random>
#include <set>
#include <string>

using namespace convoy::trace;

namespace {

constexpr int64_t kMs = 1'000'000;

// A data-parallel job of ranks on hosts of two: data, forward, backward, one all-reduce that ends
// when the last rank has come, optimizer. Hooks change what a rank does in a step.
struct Job {
  uint32_t ranks = 8, steps = 24;
  double jitter = 0.03;
  std::function<double(uint32_t rank, uint32_t step)> compute = [](auto, auto) { return 1.0; };
  std::function<int64_t(uint32_t rank, uint32_t step)> data = [](auto, auto) { return 0; };
  std::function<int64_t(uint32_t rank, uint32_t step)> checkpoint = [](auto, auto) { return 0; };
  std::function<int64_t(uint32_t step)> evaluate = [](auto) { return 0; };
  std::function<int64_t(uint32_t rank, uint32_t step)> garbage = [](auto, auto) { return 0; };
  std::function<int64_t(uint32_t rank, uint32_t step)> launch = [](auto, auto) { return 0; };
  std::function<double(uint32_t from, uint32_t to, uint32_t step)> link = [](auto, auto, auto) {
    return 1.0;
  };
  double loss = 0;

  std::vector<Verdict> told;
  std::set<uint64_t> ids;  // of all that were ever told
  std::vector<Hint> hints;

  void run();
  bool says(Class cls) const {
    return std::any_of(told.begin(), told.end(), [&](const Verdict& v) { return v.cls == cls; });
  }
  const Verdict& only() const {
    REQUIRE(told.size() == 1);
    return told[0];
  }
};

void Job::run() {
  Registry registry;
  ClockModel clock;
  SlowAnalysis analysis(registry, {});
  analysis.job({.job = "test", .world_size = ranks, .mesh = {{"dp", ranks}}});
  GroupInfo group{.name = "dp", .ranks = {}};
  for (uint32_t r = 0; r < ranks; ++r) group.ranks.push_back(r);
  const uint32_t dp = registry.group(group);
  const uint32_t reduce = registry.signature({.group = dp,
                                              .operation = "all_reduce",
                                              .dtype = "float32",
                                              .reduction = "sum",
                                              .bytes = 1 << 24});
  const auto name = [&](const char* n) { return registry.name(n); };
  std::mt19937 random(7);
  const auto noise = [&] { return std::lognormal_distribution<double>(0, jitter)(random); };
  const auto is_lost = [&] { return std::uniform_real_distribution<>(0, 1)(random) < loss; };
  std::vector<std::vector<double>> waits(ranks, std::vector<double>(ranks, 0));
  std::vector<int64_t> now(ranks, 1000 * kMs);
  for (uint32_t step = 1; step <= steps; ++step) {
    std::vector<Batch> batches(ranks);
    std::vector<int64_t> begin = now;
    const auto span = [&](uint32_t r, const char* n, int64_t length, uint64_t value) {
      if (length <= 0) return;
      if (!is_lost()) {
        batches[r].spans.push_back(
            {.name = name(n), .begin = now[r], .end = now[r] + length, .value = value});
      }
      now[r] += length;
    };
    int64_t last = 0;
    double slowest_link = 1;
    for (uint32_t r = 0; r < ranks; ++r) {
      const double factor = compute(r, step);
      const auto long_as = [&](double ms) {
        return static_cast<int64_t>(ms * factor * noise() * kMs);
      };
      span(r, names::kData, 2 * kMs + data(r, step), step);
      span(r, names::kLaunch, 1 * kMs + launch(r, step), 0);
      for (uint64_t m = 0; m < 4; ++m) {
        span(r, names::kForward, long_as(8), m);
        if (m == 2) span(r, names::kGarbage, garbage(r, step), 0);
        span(r, names::kBackward, long_as(16), m);
      }
      span(r, names::kCheckpoint, checkpoint(r, step), 0);
      span(r, names::kEvaluate, evaluate(step), 0);
      last = std::max(last, now[r]);
      slowest_link = std::max(slowest_link, link(r, (r + 1) % ranks, step));
    }
    const auto network = static_cast<int64_t>(10 * slowest_link * noise() * kMs);
    for (uint32_t r = 0; r < ranks; ++r) {
      Batch& b = batches[r];
      b.rank = r;
      b.number = step;
      b.host = "host" + std::to_string(r / 2);
      if (!is_lost()) {
        b.operations.push_back({.signature = reduce,
                                .sequence = step,
                                .issued = now[r],
                                .started = 0,
                                .completed = last + network});
      }
      now[r] = last + network;
      span(r, names::kOptimizer, static_cast<int64_t>(4 * noise() * kMs), 0);
      b.spans.push_back(
          {.name = name(names::kStep), .begin = begin[r], .end = now[r], .value = step});
      for (uint32_t to = 0; to < ranks; ++to) {
        if (to == r) continue;
        const double mine = to == (r + 1) % ranks ? 10 : 2;
        waits[r][to] += mine * link(r, to, step) * noise() * kMs;
        const auto peer = static_cast<int32_t>(to);
        const auto bytes = static_cast<uint64_t>(mine) * step << 20;
        b.counters.push_back({name(names::kSentBytes), peer, now[r], bytes});
        b.counters.push_back(
            {name(names::kSendWait), peer, now[r], static_cast<uint64_t>(waits[r][to])});
      }
      clock.place(r, b.host);
      analysis.batch(b, clock);
    }
    // A verdict by the step in which it was told last stays; one that is replaced does not count.
    told = analysis.find(now[0], clock);
    for (const Verdict& v : told) ids.insert(v.id);
  }
  hints = analysis.hints();
}

}  // namespace

TEST_CASE("a healthy job, with jitter, and with lost events: silence") {
  Job job;
  job.jitter = GENERATE(0.03, 0.15);
  job.loss = GENERATE(0.0, 0.01);
  job.run();
  CHECK(job.told.empty());
}

TEST_CASE("more work for all ranks from some step on is no fault") {
  Job job;
  job.compute = [](uint32_t, uint32_t step) { return step >= 10 ? 1.5 : 1.0; };
  job.run();
  CHECK(job.told.empty());
}

TEST_CASE("one rank computes slower: it is blamed, not those that wait for it") {
  Job job;
  job.compute = [](uint32_t r, uint32_t step) { return r == 5 && step >= 10 ? 1.2 : 1.0; };
  job.run();
  CHECK(job.only().cls == Class::kSlowCompute);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{5});
  CHECK(job.only().cost == Approx(0.16).margin(0.05));
  CHECK_FALSE(job.only().evidence.empty());
  REQUIRE_FALSE(job.hints.empty());
  CHECK(job.hints[0].name == "imbalance");
  CHECK(job.hints[0].gain == Approx(0.14).margin(0.05));
}

TEST_CASE("slow from time to time is one verdict, also where it costs little on the whole") {
  Job job;
  job.steps = 100;
  job.compute = [](uint32_t r, uint32_t step) { return r == 5 && step % 24 < 6 ? 1.2 : 1.0; };
  job.run();
  CHECK(job.only().cls == Class::kSlowComputePeriodic);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{5});
}

TEST_CASE("slow for good, but for some short steps: that is no pace") {
  Job job;
  job.steps = 60;
  job.compute = [](uint32_t r, uint32_t step) {
    return r == 5 && step >= 10 && step % 14 > 1 ? 1.3 : 1.0;
  };
  job.run();
  CHECK(job.only().cls == Class::kSlowCompute);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{5});
}

TEST_CASE("a save that stalls in steps that also evaluate") {
  Job job;
  job.ranks = 16;
  const auto saves = [](uint32_t step) { return step >= 6 && step % 6 == 0; };
  job.checkpoint = [&](uint32_t r, uint32_t step) -> int64_t {
    return !saves(step) ? 0 : r == 2 ? 900 * kMs : 100 * kMs;
  };
  job.evaluate = [&](uint32_t step) -> int64_t { return saves(step) ? 150 * kMs : 0; };
  job.run();
  CHECK(job.only().cls == Class::kCheckpointStall);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{2});
}

TEST_CASE("a slow host is one verdict; its ranks are not blamed one by one") {
  Job job;
  job.compute = [](uint32_t r, uint32_t step) { return r / 2 == 1 && step >= 10 ? 1.15 : 1.0; };
  job.run();
  CHECK(job.only().cls == Class::kSlowHost);
  CHECK(job.only().culprit.hosts == std::vector<std::string>{"host1"});
}

TEST_CASE("slow from time to time, at a steady pace") {
  Job job;
  job.steps = 40;
  job.compute = [](uint32_t r, uint32_t step) { return r == 3 && step % 14 >= 9 ? 1.4 : 1.0; };
  job.run();
  CHECK(job.only().cls == Class::kSlowComputePeriodic);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{3});
  CHECK(job.only().period_s == Approx(14 * 0.115).epsilon(0.25));
  CHECK(job.only().id == *job.ids.begin());  // told as slow for good first
}

TEST_CASE("samples that come late: of one rank its loader, of all ranks the storage") {
  Job one, all;
  one.data = [](uint32_t r, uint32_t step) { return r == 2 && step % 4 == 0 ? 60 * kMs : 0; };
  one.run();
  CHECK(one.only().cls == Class::kDataLoaderStall);
  CHECK(one.only().culprit.ranks == std::vector<uint32_t>{2});
  all.data = [](uint32_t, uint32_t step) { return step == 12 || step == 17 ? 60 * kMs : 0; };
  all.run();
  CHECK(all.only().cls == Class::kStorageStall);
  CHECK(all.only().culprit == Culprit{});
}

TEST_CASE("a checkpoint of one rank that all wait for; one of all ranks is as it should be") {
  Job one, all;
  one.checkpoint = [](uint32_t r, uint32_t step) {
    return r == 0 && step % 6 == 0 ? 200 * kMs : 0;
  };
  one.run();
  CHECK(one.only().cls == Class::kCheckpointStall);
  CHECK(one.only().culprit.ranks == std::vector<uint32_t>{0});
  all.checkpoint = [](uint32_t, uint32_t step) { return step % 6 == 0 ? 50 * kMs : 0; };
  all.run();
  CHECK(all.told.empty());
}

TEST_CASE("ranks pause in turn: nobody is blamed") {
  Job job;
  job.garbage = [](uint32_t r, uint32_t step) { return r == step * 5 % 24 ? 80 * kMs : 0; };
  job.run();
  CHECK(job.only().cls == Class::kHostPause);
  CHECK(job.only().culprit == Culprit{});
}

TEST_CASE("a host that hands work over slowly does not compute slowly") {
  Job job;
  job.launch = [](uint32_t r, uint32_t step) { return r == 6 && step >= 8 ? 30 * kMs : 0; };
  job.run();
  CHECK(job.only().cls == Class::kHostLaunchBound);
  CHECK(job.only().culprit.ranks == std::vector<uint32_t>{6});
}

TEST_CASE("links: one, all that a rank sends, all that it receives, both") {
  const auto [cls, out, in, one] =
      GENERATE(table<Class, bool, bool, bool>({{Class::kSlowLink, true, false, true},
                                               {Class::kSlowTx, true, false, false},
                                               {Class::kSlowRx, false, true, false},
                                               {Class::kSlowNic, true, true, false}}));
  Job job;
  job.link = [=](uint32_t from, uint32_t to, uint32_t step) {
    const bool hit = one ? from == 4 && to == 6 : (out && from == 4) || (in && to == 4);
    return hit && step >= 9 && from / 2 != to / 2 ? 4.0 : 1.0;
  };
  job.run();
  CHECK(job.only().cls == cls);
  if (one) {
    CHECK(job.only().culprit.links == std::vector<std::pair<uint32_t, uint32_t>>{{4, 6}});
  } else {
    CHECK(job.only().culprit.ranks == std::vector<uint32_t>{4});
  }
}

TEST_CASE("two faults at once are told apart") {
  Job job;
  job.compute = [](uint32_t r, uint32_t step) { return r == 1 && step >= 8 ? 1.3 : 1.0; };
  job.data = [](uint32_t r, uint32_t step) { return r == 6 && step % 3 == 0 ? 60 * kMs : 0; };
  job.run();
  CHECK(job.told.size() == 2);
  CHECK(job.says(Class::kSlowCompute));
  CHECK(job.says(Class::kDataLoaderStall));
}
