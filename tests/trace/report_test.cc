// Reports as people see them: a simulated job's report in a headless Chromium, each view of it. It
// checks that scripts run through, and that each view shows what it should; not how that looks.
// Where there is no Chromium, only that the report holds its data and nothing of the network.
#include <convoy/sim/cluster.h>
#include <convoy/trace/diagnose.h>
#include <convoy/trace/report.h>
#include <convoy/trace/stream.h>

#include <catch2/catch.hpp>
#include <nlohmann/json.hpp>

#include <array>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <unistd.h>

// What a case does not name stands at its default.
#pragma GCC diagnostic ignored "-Wmissing-field-initializers"

namespace convoy::trace {
namespace {

namespace fs = std::filesystem;

struct Folder {
  fs::path path = fs::temp_directory_path() / ("convoy-report-" + std::to_string(::getpid()));
  Folder() { fs::create_directories(path); }
  ~Folder() { fs::remove_all(path); }
};

std::string output_of(const std::string& command) {
  std::string text;
  FILE* const pipe = ::popen(command.c_str(), "r");
  REQUIRE(pipe != nullptr);
  std::array<char, 65536> bytes{};
  for (size_t got = 0; (got = std::fread(bytes.data(), 1, bytes.size(), pipe)) > 0;) {
    text.append(bytes.data(), got);
  }
  ::pclose(pipe);
  return text;
}

bool has_chromium() {
  return std::system("command -v chromium > /dev/null 2>&1") == 0;
}

// The page's elements after its scripts have run; and what they complained of.
std::pair<std::string, std::string> shown(const Folder& folder, const std::string& view) {
  const std::string errors = (folder.path / "errors").string();
  std::string dom = output_of(
      "timeout 60 chromium --headless --no-sandbox --disable-gpu --enable-logging=stderr "
      "--user-data-dir=" +
      (folder.path / "profile").string() + " --virtual-time-budget=3000 --dump-dom 'file://" +
      (folder.path / "report.html").string() + "#" + view + "' 2> " + errors);
  std::string console;
  std::ifstream lines(errors);
  for (std::string line; std::getline(lines, line);) {
    if (line.find("CONSOLE") != std::string::npos) console += line + "\n";
  }
  // The data stand in the page, too; what is shown stands before them.
  return {dom.substr(0, dom.find("id=\"data\"")), console};
}

Summary& simulated(Summary& summary, Registry& registry) {
  sim::Cluster cluster;
  cluster.mesh = "tp=2,pp=2,dp=2";
  cluster.steps = 12;
  REQUIRE(sim::simulate(cluster, registry, summary).ok());
  summary.finish();
  summary.set_verdicts({{.cls = Class::kSlowCompute,
                         .culprit = {.ranks = {5}, .links = {{1, 2}}},
                         .onset = summary.now() - 5'000'000'000,
                         .told = summary.now() - 3'000'000'000,
                         .confidence = 0.9,
                         .cost = 0.2,
                         .evidence = {{.rank = 5, .text = "</script><b>it is slow</b>"}},
                         .summary = "rank 5 computes slowly"}});
  summary.set_hints({{.name = "bubble", .gain = 0.1, .confidence = 0.5, .summary = "more pieces"}});
  return summary;
}

TEST_CASE("each view of a report") {
  Folder folder;
  Registry registry;
  Summary summary(registry);
  const std::string html = report_html(simulated(summary, registry), {.title = "<a report>"});
  std::ofstream(folder.path / "report.html") << html;
  CHECK(html.find("<title>&lt;a report></title>") != std::string::npos);
  CHECK(html.find("</script><b>") == std::string::npos);
  CHECK(html.find("src=") == std::string::npos);
  const size_t begin = html.find('{', html.find("id=\"data\""));
  const auto data =
      nlohmann::json::parse(html.substr(begin, html.find("</script>", begin) - begin));
  CHECK(data["/api/overview"]["verdicts"][0]["evidence"][0]["text"] ==
        "</script><b>it is slow</b>");
  if (!has_chromium()) {
    WARN("no chromium: the report is not opened");
    return;
  }
  const std::string group = std::to_string(data["/api/groups"]["groups"][0]["id"].get<int>());
  for (const auto& [view, text] : {std::pair<std::string, std::string>{"overview", "Step time"},
                                   {"ranks", "rank 5"},
                                   {"rank/5", "Rank 5"},
                                   {"groups", "tp[0]"},
                                   {"group/" + group, "along"},
                                   {"links", "rank 0"},
                                   {"verdicts", "it is slow"},
                                   {"rank/7000", "does not hold these details"}}) {
    INFO(view);
    const auto [dom, console] = shown(folder, view);
    CHECK(dom.find(text) != std::string::npos);
    CHECK((dom.find("8 ranks") != std::string::npos) == (view != "rank/7000"));
    CHECK(console == "");
  }
}

TEST_CASE("from a stream file; one that is damaged is refused") {
  Folder folder;
  const fs::path stream = folder.path / "run.trace", html = folder.path / "report.html";
  {
    Registry registry;
    auto writer = StreamWriter::create(stream, registry);
    REQUIRE(writer.ok());
    sim::Cluster cluster;
    cluster.mesh = "tp=2,dp=2";
    cluster.steps = 8;
    REQUIRE(sim::simulate(cluster, registry, **writer).ok());
    REQUIRE((*writer)->close().ok());
  }
  REQUIRE(write_report(stream, html).ok());
  CHECK(fs::file_size(html) > 50000);
  CHECK(write_report(folder.path / "none", html).code() == Code::kNotFound);
  std::ofstream(stream, std::ios::binary | std::ios::trunc) << "that is no stream";
  CHECK_FALSE(write_report(stream, html).ok());
}

TEST_CASE("of ten thousand ranks it is some MiB") {
  Registry registry;
  Summary summary(registry);
  sim::Cluster cluster;
  cluster.mesh = "tp=8,dp=80,pp=16";
  cluster.steps = 2;
  cluster.telemetry.details = false;
  cluster.model.micro_batches = 4;
  REQUIRE(sim::simulate(cluster, registry, summary).ok());
  summary.finish();
  const std::string html = report_html(summary);
  CHECK(html.size() < (size_t{10} << 20));
  CHECK(html.find("/api/rank?rank=0") != std::string::npos);
}

}  // namespace
}  // namespace convoy::trace
