// `convoy trace report` and `convoy trace replay`: a stored stream as a page, and its verdicts.
#include "src/cli/table.h"
#include "src/cli/trace_views.h"
#include <convoy/base/units.h>
#include <convoy/trace/replay.h>
#include <convoy/trace/report.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitOver = 1;   // something was wrong, and is over
constexpr int kExitWrong = 2;  // something is wrong at the end

constexpr const char* kReportFooter = R"(Example:
  convoy trace report run.trace -o report.html

The report is one file that needs no network: steps and where their time goes, ranks over the mesh,
groups, links, verdicts with their evidence, hints. Of large jobs it holds the details of culprits
and of the slowest ranks and collectives, some MiB in all.
Exit codes: 0; 64 bad option; 65 damaged stream; 66 no such file.)";

constexpr const char* kReplayFooter = R"(Examples:
  convoy trace replay run.trace
      what a running job would have been told, and how long after it began
  convoy trace replay run.trace --json --at-end
      one look when all has been read

Reads both forms of stream, also those that others have written (docs/format/trace_stream.md).
Exit codes: 0 nothing is wrong; 1 something was, and was over by the end; 2 something is wrong at
the end; 64 bad option; 65 damaged stream; 66 no such file.)";

struct Arguments {
  std::string file, out = "report.html", title;
  bool json = false, at_end = false;
};

std::string culprit_text(const trace::Culprit& culprit, const trace::Registry& registry) {
  std::string text;
  const auto add = [&](const std::string& one) { text += (text.empty() ? "" : ", ") + one; };
  constexpr size_t kShown = 4;
  for (size_t i = 0; i < std::min(culprit.hosts.size(), kShown); ++i) {
    add("host " + culprit.hosts[i]);
  }
  for (size_t i = 0; i < std::min(culprit.ranks.size(), kShown); ++i) {
    add("rank " + std::to_string(culprit.ranks[i]));
  }
  for (size_t i = 0; i < std::min(culprit.links.size(), kShown); ++i) {
    add("link " + std::to_string(culprit.links[i].first) + ">" +
        std::to_string(culprit.links[i].second));
  }
  for (const uint32_t group : culprit.groups) {
    if (group < registry.groups().size()) add("group " + registry.groups()[group].name);
  }
  if (culprit.stage >= 0) add("stage " + std::to_string(culprit.stage));
  const size_t all = culprit.hosts.size() + culprit.ranks.size() + culprit.links.size();
  if (all > kShown) add("… (" + std::to_string(all) + ")");
  return text.empty() ? "nobody in particular" : text;
}

std::string percent(double share) {
  char text[16];
  std::snprintf(text, sizeof text, "%.0f %%", share * 100);
  return text;
}

double seconds(int64_t ns) {
  return static_cast<double>(ns) * 1e-9;
}

Json to_json(const trace::Replay& replay) {
  // The page's own form, so that there is one.
  const Json overview = Json::parse(replay.summary->overview());
  return {{"job", overview["job"]},           {"world_size", overview["world_size"]},
          {"first_us", overview["first_us"]}, {"end_us", replay.end / 1000},
          {"batches", replay.batches},        {"truncated", replay.truncated},
          {"verdicts", overview["verdicts"]}, {"hints", overview["hints"]}};
}

void print(const trace::Replay& replay) {
  const Json overview = Json::parse(replay.summary->overview());
  std::printf("%s: %llu ranks, %llu batches, %.1f s%s\n",
              printable(overview["job"].get<std::string>()).c_str(),
              overview["world_size"].get<unsigned long long>(),
              static_cast<unsigned long long>(replay.batches),
              seconds(replay.end) - overview["first_us"].get<double>() * 1e-6,
              replay.truncated ? "; the file ends in the middle of a frame" : "");
  if (replay.verdicts.empty()) {
    std::printf("Nothing is wrong, as far as the records tell.\n");
  } else {
    Table table({"CLASS", "CULPRIT", ">AT s", ">FOUND s", ">SURE", ">COST", "STATE"}, 1);
    const double first = overview["first_us"].get<double>() * 1e-6;
    for (const trace::Verdict& v : replay.verdicts) {
      char at[32], found[32];
      std::snprintf(at, sizeof at, "%.1f", seconds(v.onset) - first);
      std::snprintf(found, sizeof found, "+%.1f", seconds(v.told - v.onset));
      table.add({trace::name_of(v.cls), printable(culprit_text(v.culprit, replay.registry)), at,
                 found, percent(v.confidence), percent(v.cost), v.cleared != 0 ? "over" : "open"});
    }
    table.print();
    for (const trace::Verdict& v : replay.verdicts) {
      std::printf("\n%s: %s\n", trace::name_of(v.cls), printable(v.summary).c_str());
      if (!v.action.empty()) std::printf("  Do: %s\n", printable(v.action).c_str());
    }
  }
  for (const trace::Hint& h : replay.hints) {
    std::printf("\nHint (%s of a step): %s\n", percent(h.gain).c_str(),
                printable(h.summary).c_str());
  }
}

Result<int> replay(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<trace::Replay> replayed,
                          trace::replay_stream(arguments.file, {.at_end = arguments.at_end}));
  if (arguments.json) {
    std::printf("%s\n", to_json(*replayed).dump().c_str());
  } else {
    print(*replayed);
  }
  int code = 0;
  for (const trace::Verdict& v : replayed->verdicts) {
    if (v.cls == trace::Class::kWarmUp) continue;  // nothing is wrong
    code = std::max(code, v.cleared != 0 ? kExitOver : kExitWrong);
  }
  return code;
}

Result<int> report(const Arguments& arguments) {
  CONVOY_RETURN_IF_ERROR(
      trace::write_report(arguments.file, arguments.out, {.title = arguments.title}));
  std::printf("%s: %s\n", arguments.out.c_str(),
              format_bytes(std::filesystem::file_size(arguments.out)).c_str());
  return 0;
}

void run(Invocation& invocation, const Arguments& arguments,
         Result<int> (*command)(const Arguments&)) {
  const Result<int> code = command(arguments);
  invocation.exit_code = code.ok() ? *code : fail(code.status());
}

}  // namespace

void add_trace_report(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("report", "Write a stored stream as one HTML file");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FILE", arguments->file, "a stream file")->required();
  app->add_option("-o,--output", arguments->out, "default: report.html")->type_name("FILE");
  app->add_option("--title", arguments->title, "of the page");
  app->footer(kReportFooter);
  app->callback([&invocation, arguments] { run(invocation, *arguments, report); });
}

void add_trace_replay(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("replay", "Analyse a stored stream again");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FILE", arguments->file, "a stream file")->required();
  app->add_flag("--json", arguments->json, "print it as one line of JSON");
  app->add_flag("--at-end", arguments->at_end, "look once, when all has been read");
  app->footer(kReplayFooter);
  app->callback([&invocation, arguments] { run(invocation, *arguments, replay); });
}

}  // namespace convoy::cli
