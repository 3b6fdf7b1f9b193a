// Which of several nodes stands out: made-up reports with a slow sibling, and healthy ones with the
// spread that healthy nodes have. Pure.
#include "src/resilience/doctor/compare.h"
#include <convoy/resilience/doctor.h>

#include <catch2/catch.hpp>

#include <random>

using namespace convoy;
using namespace convoy::resilience;

namespace {

DoctorReport report_of(const std::string& node, double bandwidth, double latency) {
  DoctorReport report{.node = node};
  report.results.push_back({.name = "memory.copy_all_cores",
                            .value = bandwidth,
                            .unit = "B/s",
                            .better = Better::kHigher});
  report.results.push_back({.name = "disk.fsync",
                            .subject = "/data",
                            .value = latency,
                            .unit = "s",
                            .better = Better::kLower});
  report.results.push_back({.name = "memory.available", .value = bandwidth, .unit = "B"});
  return report;
}

Comparison compare(const std::vector<DoctorReport>& reports) {
  const Result<Comparison> comparison = compare_reports(reports);
  REQUIRE(comparison.ok());
  return comparison.value();
}

}  // namespace

TEST_CASE("a slow sibling is named, with what and how much") {
  std::vector<DoctorReport> reports;
  for (int i = 0; i < 8; ++i) {
    reports.push_back(report_of("node" + std::to_string(i), i == 5 ? 4e10 : 1e11 + i * 1e9, 0.001));
  }
  reports[2].results[1].value = 0.010;
  const Comparison comparison = compare(reports);
  CHECK(comparison.nodes == 8);
  CHECK(comparison.metrics == 2);
  REQUIRE(comparison.outliers.size() == 2);
  CHECK(comparison.outliers[0].node == "node2");  // the farthest first
  CHECK(comparison.outliers[0].name == "disk.fsync");
  CHECK(comparison.outliers[0].times_worse == Approx(10));
  CHECK(comparison.outliers[1].node == "node5");
  CHECK(comparison.outliers[1].median == Approx(1.03e11));
  CHECK(comparison.outliers[1].mad == Approx(2e9));
  CHECK(comparison.outliers[1].times_worse == Approx(2.575));
}

TEST_CASE("one of three stands out though it widens their spread; a fast one does not") {
  CHECK(compare({report_of("a", 10, 1), report_of("b", 9, 1), report_of("c", 5, 1)})
            .outliers[0]
            .node == "c");
  CHECK(compare({report_of("a", 10, 1), report_of("b", 9.5, 1), report_of("c", 30, 1)})
            .outliers.empty());
}

TEST_CASE("of two the ratio decides") {
  const Comparison far = compare({report_of("a", 10, 1), report_of("b", 7, 1)});
  REQUIRE(far.outliers.size() == 1);
  CHECK(far.outliers[0].node == "b");
  CHECK(compare({report_of("a", 10, 1), report_of("b", 8.5, 1.9)}).outliers.empty());
}

TEST_CASE("two siblings that differ widely hide nothing that is far worse than both") {
  const Comparison comparison =
      compare({report_of("a", 1e9, 1), report_of("b", 3e9, 1), report_of("c", 1e6, 1)});
  REQUIRE(comparison.outliers.size() == 1);
  CHECK(comparison.outliers[0].node == "c");
}

TEST_CASE("a node warns of a peer whose link is slower than the others'") {
  std::vector<CheckResult> results;
  for (const double rate : {2.0e9, 2.1e9, 0.2e9, 1.9e9}) {
    results.push_back({.name = "network.receive",
                       .subject = "peer" + std::to_string(results.size()),
                       .value = rate,
                       .unit = "B/s",
                       .better = Better::kHigher});
  }
  results.push_back({.name = "network.receive", .subject = "dead", .verdict = Verdict::kFail});
  compare_peers(results);
  for (const CheckResult& result : results) {
    INFO(result.subject);
    if (result.subject == "dead") continue;
    CHECK(result.verdict == (result.subject == "peer2" ? Verdict::kWarn : Verdict::kOk));
  }
  CHECK(results[2].expected == "about 1.86 GiB/s, as other peers");
  CHECK(results[2].advice.find("10 times worse") != std::string::npos);
}

TEST_CASE("healthy nodes: nobody stands out") {
  for (int seed = 0; seed < 200; ++seed) {
    std::mt19937 random(seed);
    std::normal_distribution<double> noise(1, 0.05);
    std::lognormal_distribution<double> latency(-7, 0.15);
    std::vector<DoctorReport> reports;
    for (int i = 0; i < 3 + seed % 30; ++i) {
      reports.push_back(
          report_of("node" + std::to_string(i), 1e11 * noise(random), latency(random)));
    }
    INFO("seed " << seed);
    CHECK(compare(reports).outliers.empty());
  }
}

TEST_CASE("nothing measured, and zero") {
  const Comparison comparison =
      compare({report_of("a", 0, 0), report_of("b", 1e9, 0), report_of("c", 1e9, 0)});
  REQUIRE(comparison.outliers.size() == 1);
  CHECK(comparison.outliers[0].node == "a");
  CHECK(compare({DoctorReport{.node = "a"}, DoctorReport{.node = "b"}}).metrics == 0);
}

TEST_CASE("what can't be compared is refused") {
  const DoctorReport a = report_of("a", 1, 1), b = report_of("b", 1, 1);
  DoctorReport quick = report_of("c", 1, 1);
  quick.is_quick = true;
  CHECK(compare_reports(std::vector{a}).status().code() == Code::kInvalidArgument);
  CHECK(compare_reports(std::vector{a, a}).status().message().find("--node") != std::string::npos);
  CHECK(compare_reports(std::vector{a, quick}).status().message().find("--quick") !=
        std::string::npos);
}

TEST_CASE("a report survives JSON; damaged ones are refused, whatever the damage") {
  DoctorReport report = report_of("node \"1\"", 1e11, 0.5);
  report.seconds = 2.5;
  const std::string text = to_json(report);
  const Result<DoctorReport> back = report_from_json(text);
  REQUIRE(back.ok());
  CHECK(back->node == report.node);
  CHECK(back->results.size() == 3);
  CHECK(to_json(back.value()) == text);
  for (size_t size = 0; size < text.size(); ++size) {
    CHECK_FALSE(report_from_json(text.substr(0, size)).ok());
  }
  std::mt19937 random(1);
  for (int i = 0; i < 20'000; ++i) {
    std::string damaged = text;
    for (int bytes = 0; bytes < 3; ++bytes) {
      damaged[random() % damaged.size()] = static_cast<char>(random());
    }
    const Result<DoctorReport> read = report_from_json(damaged);
    CHECK((read.ok() || read.status().code() == Code::kDataLoss));
  }
}

TEST_CASE("peers' names") {
  CHECK(parse_peer("node1:29900")->text() == "node1:29900");
  CHECK(parse_peer("[::1]:1")->host == "::1");
  CHECK(parse_peer("[::1]:1")->text() == "[::1]:1");
  for (const char* wrong : {"", "node1", ":1", "node1:", "node1:0", "node1:65536", "node1:x"}) {
    CHECK_FALSE(parse_peer(wrong).ok());
  }
}

TEST_CASE("values as people read them") {
  CHECK(format_value(0.00213, "s") == "2.13 ms");
  CHECK(format_value(-2e-5, "s") == "-20 µs");
  CHECK(format_value(1.5 * (1 << 30), "B/s") == "1.5 GiB/s");
  CHECK(format_value(0, "B") == "0 B");
  CHECK(format_value(0.052, "share") == "5.2 %");
}
