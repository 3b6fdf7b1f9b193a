// `convoy trace export`: a stored stream in the formats of other tools.
#include "src/cli/trace_stream.h"
#include <convoy/base/units.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <charconv>
#include <cstdio>
#include <functional>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitDamaged = 65;

struct Arguments {
  std::string file;
  std::string perfetto, kineto, chrome, parquet;
  std::string ranks, steps, seconds;
  bool plain = false;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy trace export run.trace --perfetto run.pftrace
      for ui.perfetto.dev
  convoy trace export run.trace --kineto kineto --ranks 0-7 --steps 10-20
      a file for each rank, which Holistic Trace Analysis reads
  convoy trace export run.trace --parquet tables
      for `convoy trace query`, DuckDB, pandas

Times are on one clock. What becomes what: docs/trace_export.md.
Exit codes: 0; 64 bad option; 65 the file is damaged (what stands before that is exported); 66 no such file; 70 cannot write.)";

Status bad_range(const char* what, const std::string& text) {
  return {Code::kInvalidArgument,
          std::string(what) + " '" + text + "' is no range such as 10-20 or one number"};
}

// "10-20", "12", "0.5-3".
template <class Number>
Result<std::pair<Number, Number>> parse_range(const char* what, const std::string& text) {
  const char* const end = text.data() + text.size();
  std::pair<Number, Number> range;
  auto read = std::from_chars(text.data(), end, range.first);
  if (read.ec != std::errc() || range.first < 0) return bad_range(what, text);
  range.second = range.first;
  if (read.ptr != end) {
    if (*read.ptr != '-') return bad_range(what, text);
    read = std::from_chars(read.ptr + 1, end, range.second);
    if (read.ec != std::errc() || read.ptr != end) return bad_range(what, text);
  }
  if (range.second < range.first) return bad_range(what, text);
  return range;
}

Result<trace::Selection> select(const Arguments& arguments) {
  trace::Selection selection;
  if (!arguments.ranks.empty()) {
    CONVOY_ASSIGN_OR_RETURN(selection.ranks, trace::parse_ranges("--ranks", arguments.ranks));
  }
  if (!arguments.steps.empty()) {
    CONVOY_ASSIGN_OR_RETURN(selection.steps, parse_range<uint64_t>("--steps", arguments.steps));
  }
  if (!arguments.seconds.empty()) {
    CONVOY_ASSIGN_OR_RETURN(selection.seconds, parse_range<double>("--seconds", arguments.seconds));
  }
  return selection;
}

struct Target {
  const char* format;
  std::string path;
  std::function<Result<std::unique_ptr<trace::Exporter>>(const StreamFile&)> create;
};

std::vector<Target> targets(const Arguments& a) {
  std::vector<Target> all = {
      {"perfetto", a.perfetto,
       [&](const StreamFile& s) {
         return trace::create_perfetto(a.perfetto, s.registry, *s.survey, {.compress = !a.plain});
       }},
      {"kineto", a.kineto,
       [&](const StreamFile& s) { return trace::create_kineto(a.kineto, s.registry, *s.survey); }},
      {"chrome", a.chrome,
       [&](const StreamFile& s) { return trace::create_chrome(a.chrome, s.registry, *s.survey); }},
      {"parquet", a.parquet, [&](const StreamFile& s) {
         return trace::create_parquet(a.parquet, s.registry, *s.survey);
       }}};
  std::erase_if(all, [](const Target& t) { return t.path.empty(); });
  return all;
}

void print(const Target& target, const trace::ExportSummary& s) {
  const uint64_t slices = s.operations + s.spans;
  std::printf("%s: %llu ranks, %llu operations, %llu spans, %llu counters, %llu verdicts; %s",
              target.path.c_str(), static_cast<unsigned long long>(s.ranks),
              static_cast<unsigned long long>(s.operations),
              static_cast<unsigned long long>(s.spans), static_cast<unsigned long long>(s.counters),
              static_cast<unsigned long long>(s.verdicts), format_bytes(s.bytes).c_str());
  if (slices > 0) {
    std::printf(", %.1f bytes a slice", static_cast<double>(s.bytes) / static_cast<double>(slices));
  }
  if (s.unfinished > 0) {
    std::printf("; %llu unfinished", static_cast<unsigned long long>(s.unfinished));
  }
  std::printf("\n");
}

Json to_json(const Target& target, const trace::ExportSummary& s) {
  return {{"format", target.format},
          {"path", target.path},
          {"files", s.files},
          {"bytes", s.bytes},
          {"plain_bytes", s.plain_bytes},
          {"ranks", s.ranks},
          {"operations", s.operations},
          {"spans", s.spans},
          {"counters", s.counters},
          {"unfinished", s.unfinished},
          {"verdicts", s.verdicts}};
}

Result<int> export_all(const Arguments& arguments) {
  const std::vector<Target> chosen = targets(arguments);
  if (chosen.empty()) {
    return Status(Code::kInvalidArgument,
                  "say what to write: --perfetto FILE, --kineto FOLDER, --chrome FILE or --parquet "
                  "FOLDER");
  }
  CONVOY_ASSIGN_OR_RETURN(const trace::Selection selection, select(arguments));
  CONVOY_ASSIGN_OR_RETURN(const auto stream, survey_stream(arguments.file, selection));
  const auto windows = stream->survey->windows();
  if (std::ranges::all_of(windows, [](const auto& w) { return w.first > w.second; })) {
    return Status(Code::kInvalidArgument,
                  arguments.file + " holds nothing of these ranks and steps");
  }
  Json done = Json::array();
  for (const Target& target : chosen) {
    CONVOY_ASSIGN_OR_RETURN(const auto exporter, target.create(*stream));
    CONVOY_RETURN_IF_ERROR(export_stream(*stream, *exporter));
    if (arguments.json) {
      done.push_back(to_json(target, exporter->summary()));
    } else {
      print(target, exporter->summary());
    }
  }
  if (arguments.json) {
    const Json json = {
        {"file", arguments.file},
        {"truncated", stream->truncated},
        {"damage", stream->damage.ok() ? Json(nullptr) : Json(stream->damage.message())},
        {"exports", done}};
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  }
  return stream->damage.ok() ? 0 : kExitDamaged;
}

}  // namespace

void add_trace_export(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("export", "Write a stored stream for other tools");
  const auto a = std::make_shared<Arguments>();
  app->add_option("FILE", a->file, "a stream file")->required();
  app->add_option("--perfetto", a->perfetto, "a trace for ui.perfetto.dev")->type_name("FILE");
  app->add_option("--kineto", a->kineto, "a PyTorch profile for each rank")->type_name("FOLDER");
  app->add_option("--chrome", a->chrome, "one file in Chrome's JSON format")->type_name("FILE");
  app->add_option("--parquet", a->parquet, "tables")->type_name("FOLDER");
  app->add_option("--ranks", a->ranks, "only these: 0-7,12")->type_name("RANKS");
  app->add_option("--steps", a->steps, "only these: 10-20")->type_name("STEPS");
  app->add_option("--seconds", a->seconds, "only these, after the first event: 0.5-3")
      ->type_name("SECONDS");
  app->add_flag("--plain", a->plain, "don't compress packets (--perfetto)");
  app->add_flag("--json", a->json, "print a summary as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, a] {
    const Result<int> code = export_all(*a);
    invocation.exit_code = code.ok() ? *code : fail(code.status());
  });
}

}  // namespace convoy::cli
