// `convoy trace`: what the processes of this machine record while they run.
#include "src/cli/commands.h"
#include "src/cli/table.h"
#include "src/cli/trace_node.h"
#include "src/cli/trace_simulate.h"
#include "src/cli/trace_stream.h"
#include "src/cli/trace_views.h"
#include <convoy/base/units.h>
#include <convoy/trace/segment.h>
#include <convoy/trace/traced.h>

#include <nlohmann/json.hpp>

#include <algorithm>
#include <cstdio>
#include <map>
#include <memory>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;
using trace::Traced;

struct Arguments {
  std::vector<int> pids;
  std::string level;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy trace show
      every rank on this machine: what it has spent its last seconds with
  convoy trace show 4711 --json
  convoy trace level details 4711
      from now on; `off` costs nothing, `spans` is the default (CONVOY_TRACE)
  convoy run -n 8 --trace -- python train.py
      all ranks together: verdicts, a page, a report

A process keeps its newest 8,192 records a thread in memory; `lost` counts the older ones, which are
overwritten. Times of spans hold those of the spans within them.
Exit codes: 0; 64 bad option; 66 no process that records.)";

Result<std::vector<Traced>> find(std::vector<int> pids, bool writable) {
  const bool all = pids.empty();
  if (all) pids = trace::all_processes();
  std::vector<Traced> found;
  for (const int pid : pids) {
    auto segment = trace::segment_of(pid, writable);
    if (segment != nullptr) {
      found.push_back({pid, std::move(segment)});
    } else if (!all) {
      return Status(Code::kNotFound, "process " + std::to_string(pid) +
                                         " is not there, is another user's, or records nothing "
                                         "(CONVOY_TRACE=off)");
    }
  }
  if (found.empty()) return Status(Code::kNotFound, "no process of this machine records anything");
  std::ranges::sort(found, {}, [](const Traced& t) { return std::pair(t.segment->rank(), t.pid); });
  return found;
}

// Spans of one name in one process.
struct Spans {
  std::vector<double> seconds;
  double total = 0;
};

struct Summary {
  std::map<std::string, Spans> spans;
  uint64_t records = 0, lost = 0;
  double seconds = 0;  // between the first and the last record
};

Summary summarise(const std::shared_ptr<trace::Segment>& segment) {
  Summary out;
  const trace::TimeScale times = segment->time_scale();
  int64_t first = INT64_MAX, last = 0;
  for (uint32_t ring = 0; ring < segment->rings(); ++ring) {
    std::vector<trace::Record> records;
    trace::RingReader reader(segment, ring);
    reader.read(records);
    out.records += records.size();
    out.lost += reader.lost();
    std::map<uint16_t, std::vector<int64_t>> open;  // by name: spans of one name may nest
    for (const trace::Record& r : records) {
      if (r.kind == trace::Kind::kThread) open.clear();
      const int64_t at = times.monotonic_ns(r.time);
      first = std::min(first, at);
      last = std::max(last, at);
      if (r.kind == trace::Kind::kBegin) open[r.name].push_back(at);
      if (r.kind != trace::Kind::kEnd || open[r.name].empty()) continue;  // begun before the oldest
      Spans& spans = out.spans[segment->name(r.name)];
      spans.seconds.push_back(static_cast<double>(at - open[r.name].back()) * 1e-9);
      spans.total += spans.seconds.back();
      open[r.name].pop_back();
    }
  }
  for (auto& [name, spans] : out.spans) std::ranges::sort(spans.seconds);
  out.seconds = last > first ? static_cast<double>(last - first) * 1e-9 : 0;
  return out;
}

double quantile(const std::vector<double>& sorted, double q) {
  const auto at = static_cast<size_t>(q * static_cast<double>(sorted.size()));
  return sorted[std::min(at, sorted.size() - 1)];
}

std::string milliseconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds * 1e3);
  return text;
}

Json to_json(const Traced& traced, const Summary& summary) {
  const trace::Segment& segment = *traced.segment;
  Json json = {{"pid", traced.pid},
               {"rank", segment.rank()},
               {"world_size", segment.world_size()},
               {"generation", segment.generation()},
               {"level", trace::name_of(segment.level())},
               {"records", summary.records},
               {"lost", summary.lost},
               {"unplaced", segment.unplaced()},
               {"seconds", summary.seconds},
               {"spans", Json::array()}};
  for (const auto& [name, spans] : summary.spans) {
    json["spans"].push_back({{"name", name},
                             {"count", spans.seconds.size()},
                             {"total_s", spans.total},
                             {"p50_s", quantile(spans.seconds, 0.5)},
                             {"p99_s", quantile(spans.seconds, 0.99)},
                             {"max_s", spans.seconds.back()}});
  }
  return json;
}

void print(const Traced& traced, const Summary& summary) {
  const trace::Segment& segment = *traced.segment;
  std::printf("rank %d of %d, process %d: %llu records of %.1f s, %llu lost, level %s\n",
              segment.rank(), segment.world_size(), traced.pid,
              static_cast<unsigned long long>(summary.records), summary.seconds,
              static_cast<unsigned long long>(summary.lost), trace::name_of(segment.level()));
  std::vector<std::pair<std::string, const Spans*>> order;
  for (const auto& [name, spans] : summary.spans) order.emplace_back(name, &spans);
  std::ranges::sort(order, std::greater<>(), [](const auto& one) { return one.second->total; });
  Table table({"SPAN", ">COUNT", ">TOTAL s", ">SHARE", ">p50 ms", ">p99 ms", ">MAX ms"}, 0);
  for (const auto& [name, spans] : order) {
    char total[32], share[32];
    std::snprintf(total, sizeof total, "%.3f", spans->total);
    std::snprintf(share, sizeof share, "%.1f %%",
                  summary.seconds > 0 ? 100 * spans->total / summary.seconds : 0.0);
    table.add({printable(name), std::to_string(spans->seconds.size()), total, share,
               milliseconds(quantile(spans->seconds, 0.5)),
               milliseconds(quantile(spans->seconds, 0.99)), milliseconds(spans->seconds.back())});
  }
  table.print(2);
}

Status show(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const std::vector<Traced> found, find(arguments.pids, false));
  Json all = Json::array();
  for (const Traced& traced : found) {
    const Summary summary = summarise(traced.segment);
    if (arguments.json) {
      all.push_back(to_json(traced, summary));
    } else {
      print(traced, summary);
    }
  }
  if (arguments.json) std::printf("%s\n", Json{{"processes", all}}.dump().c_str());
  return ok_status();
}

Status set_level(const Arguments& arguments) {
  const auto level = trace::level_of(arguments.level);
  if (!level) {
    return {Code::kInvalidArgument,
            "there is no level '" + arguments.level + "'; take off, collectives, spans or details"};
  }
  CONVOY_ASSIGN_OR_RETURN(const std::vector<Traced> found, find(arguments.pids, true));
  for (const Traced& traced : found) {
    traced.segment->set_level(*level);
    std::printf("rank %d, process %d: %s\n", traced.segment->rank(), traced.pid,
                arguments.level.c_str());
  }
  return ok_status();
}

void add(CLI::App& group, Invocation& invocation, const char* name, const char* help,
         Status (*command)(const Arguments&), bool takes_level) {
  CLI::App* app = group.add_subcommand(name, help);
  const auto arguments = std::make_shared<Arguments>();
  if (takes_level) {
    app->add_option("LEVEL", arguments->level, "off, collectives, spans or details")->required();
  } else {
    app->add_flag("--json", arguments->json, "print it as one line of JSON");
  }
  app->add_option("PID", arguments->pids, "of these processes; default: all that record");
  app->footer(kFooter);
  app->callback([&invocation, arguments, command] {
    const Status status = command(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace

void add_trace(CLI::App& root, Invocation& invocation) {
  CLI::App* group = root.add_subcommand("trace", "See what running ranks spend their time with");
  group->require_subcommand(1);
  group->footer(kFooter);
  add(*group, invocation, "show", "Sum up the newest records of each process", show, false);
  add(*group, invocation, "level", "Switch how much is recorded", set_level, true);
  add_trace_export(*group, invocation);
  add_trace_query(*group, invocation);
  add_trace_diff(*group, invocation);
  add_trace_simulate(*group, invocation);
  add_trace_top(*group, invocation);
  add_trace_report(*group, invocation);
  add_trace_replay(*group, invocation);
  add_trace_collect(*group, invocation);
  add_trace_serve(*group, invocation);
}

}  // namespace convoy::cli
