// The rehearsal's summary: reports are written here as the stand-in writes them, and what is said
// of them together is checked. Not checked: that the stand-in writes such reports
// (tests/cli/rehearse_test.py).
#include "src/launch/rehearsal.h"

#include "tests/temp_folder.h"

#include <catch2/catch.hpp>

#include <csignal>
#include <fstream>

using namespace convoy;
using namespace convoy::launch;

namespace {

constexpr int kKilled = SIGKILL;  // as a wait status

void write_report(const std::string& run_dir, int rank, int pid, const std::string& text) {
  REQUIRE(make_report_folder(report_folder(run_dir, rank)).ok());
  std::ofstream(report_folder(run_dir, rank) + "/" + std::to_string(pid) + ".json") << text;
}

std::string report(bool ended, uint64_t peak, const std::string& findings,
                   const std::string& owners = "") {
  return std::string(R"({"ended": )") + (ended ? "true" : "false") +
         R"(, "devices": [{"device": 0, "capacity": 1048576, "peak": )" + std::to_string(peak) +
         R"(, "owners": [)" + owners + R"(]}], "findings": [)" + findings + "]}";
}

RankExit exit_of(int rank, int wait_status = 0) {
  RankExit exit;
  exit.rank = rank;
  exit.wait_status = wait_status;
  return exit;
}

std::string finding(const std::string& text) {
  return R"({"kind": "unsynchronised use", "text": ")" + text + R"(", "count": 2})";
}

}  // namespace

TEST_CASE("findings that differ in numbers only are one, with all ranks") {
  const TempFolder folder;
  const std::string dir = folder.path();
  write_report(dir, 0, 10, report(true, 4096, finding("stream 2 of device 0 at 0x50ab writes")));
  write_report(dir, 1, 11, report(true, 4096, finding("stream 3 of device 1 at 0x70cd writes")));
  write_report(dir, 3, 12, report(true, 4096, finding("another")));
  const RehearsalSummary summary =
      summarize_rehearsal(dir, {exit_of(0), exit_of(1), exit_of(2), exit_of(3)});
  REQUIRE(summary.findings.size() == 2);
  const RehearsalFinding& same = summary.findings[1];
  CHECK(same.text == "stream 2 of device 0 at 0x50ab writes");
  CHECK(same.ranks == std::set<int>{0, 1});
  CHECK(same.count == 4);
  CHECK(same.seen.size() == 2);
  CHECK(summary.idle == std::vector<int>{2});
  CHECK(summary.unfinished.empty());
  const std::string text = rehearsal_text({}, summary, dir);
  CHECK(text.find("unsynchronised use (ranks 0-1; 4 times)") != std::string::npos);
  CHECK(text.find("12 KiB of 1 MiB at the peak, by ranks 0-1 and 3") != std::string::npos);
}

TEST_CASE("a killed rank's findings count, and its report is said to be incomplete") {
  const TempFolder folder;
  const std::string dir = folder.path();
  const std::string leak = R"({"owner": "cudaMalloc by libmine.so", "count": 1, "bytes": 64})";
  write_report(dir, 0, 10, report(false, 4096, finding("early"), leak));
  write_report(dir, 1, 11, report(true, 4096, "", leak));
  const RehearsalSummary summary = summarize_rehearsal(dir, {exit_of(0, kKilled), exit_of(1)});
  REQUIRE(summary.findings.size() == 2);
  CHECK(summary.findings[0].kind == "leak");
  CHECK(summary.findings[0].ranks == std::set<int>{1});  // rank 0 had no time to free
  CHECK(summary.findings[1].ranks == std::set<int>{0});
  REQUIRE(summary.unfinished.size() == 1);
  CHECK(rehearsal_text({}, summary, dir).find("rank 0 ended by SIGKILL") != std::string::npos);
}

TEST_CASE("what torch's caching allocator keeps is no leak") {
  const TempFolder folder;
  const std::string dir = folder.path();
  write_report(dir, 0, 10,
               report(true, 4096, "",
                      R"({"owner": "cudaMalloc by libc10_cuda.so", "count": 1, "bytes": 64})"));
  CHECK(summarize_rehearsal(dir, {exit_of(0)}).findings.empty());
}

TEST_CASE("a rehearsal that used no GPU is a finding, unless a rank failed") {
  const TempFolder folder;
  const std::string dir = folder.path();
  write_report(dir, 0, 10, report(true, 0, ""));  // asked how many there are, and no more
  const RehearsalSummary idle = summarize_rehearsal(dir, {exit_of(0), exit_of(1)});
  REQUIRE(idle.findings.size() == 1);
  CHECK(idle.findings[0].kind == "nothing rehearsed");
  CHECK(summarize_rehearsal(dir, {exit_of(0), exit_of(1, kKilled)}).findings.empty());
}

TEST_CASE("a damaged report is an incomplete one") {
  const TempFolder folder;
  const std::string dir = folder.path();
  write_report(dir, 0, 10, "{\"ended\": true, \"dev");
  CHECK(summarize_rehearsal(dir, {exit_of(0)}).unfinished.size() == 1);
}

TEST_CASE("reports of an earlier job are gone") {
  const TempFolder folder;
  const std::string dir = folder.path();
  write_report(dir, 0, 10, report(true, 4096, finding("old")));
  REQUIRE(make_report_folder(report_folder(dir, 0)).ok());
  CHECK(summarize_rehearsal(dir, {exit_of(0), exit_of(1, kKilled)}).findings.empty());
}

TEST_CASE("the environment of a rehearsal") {
  std::map<std::string, std::string> values{{"LD_PRELOAD", "/user.so"},
                                            {"CUDA_VISIBLE_DEVICES", ""}};
  Rehearsal rehearsal;
  REQUIRE(complete_rehearsal(4, &rehearsal).ok());
  add_rehearsal(rehearsal, {"/a.so", "/b.so"}, "/reports", &values);
  CHECK(values["LD_PRELOAD"] == "/user.so:/a.so:/b.so");
  CHECK(values["CONVOY_STANDIN_GPUS"] == "4");
  CHECK(values["CONVOY_STANDIN_GPU_MEMORY"] == "2147483648");
  CHECK(values.count("CUDA_VISIBLE_DEVICES") == 0);
  Rehearsal many;
  CHECK_FALSE(complete_rehearsal(17, &many).ok());
  many.gpus = 4;
  CHECK(complete_rehearsal(17, &many).ok());  // they share
}
