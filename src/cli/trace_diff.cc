// `convoy trace diff`: whether one run is faster than another, and where.
#include "src/cli/table.h"
#include "src/cli/trace_stream.h"
#include <convoy/base/units.h>
#include <convoy/trace/compare.h>
#include <convoy/trace/stream.h>

#include <nlohmann/json.hpp>

#include <charconv>
#include <cmath>
#include <cstdio>

namespace convoy::cli {
namespace {

using Json = nlohmann::ordered_json;

constexpr int kExitDiffers = 1;

struct Arguments {
  std::string a, b;
  std::string steps;
  double min_change = 1;  // percent
  bool all = false;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy trace diff before.trace after.trace
  convoy trace diff before.trace after.trace --steps 20-200 --min-change 0.5

Compares each step's mean over ranks: the step, its phases (a span's own time, without the spans
within it; for all ranks and by role), and single operations by kind of group, operation and size.
CHANGE has an interval of 95 % confidence. A difference is beyond noise where chance alone would not
do it (rank test over steps, p <= 0.01 after correction for the number of comparisons and for steps
that resemble their neighbours) and it is at least --min-change. Two runs of one program differ by
placement and by other jobs, too, which two files cannot tell: compare more than one pair.
Exit codes: 0 nothing beyond noise; 1 differences; 64 bad option; 65 damaged file; 66 no such file.)";

struct Run {
  trace::Registry registry;
  std::unique_ptr<trace::RunProfile> profile;
};

Result<std::unique_ptr<Run>> load(const std::string& path,
                                  std::optional<std::pair<uint64_t, uint64_t>> steps) {
  auto run = std::make_unique<Run>();
  run->profile = std::make_unique<trace::RunProfile>(run->registry, steps);
  bool truncated = false;
  CONVOY_RETURN_IF_ERROR(trace::read_stream(path, run->registry, *run->profile, &truncated));
  if (truncated) {
    std::fprintf(stderr, "convoy: %s ends in the middle of a frame; all before it is used.\n",
                 path.c_str());
  }
  if (run->profile->steps() == 0) {
    return Status(Code::kInvalidArgument, path + " holds no steps" +
                                              (steps ? " of these numbers" : "") +
                                              ": runs are compared step by step");
  }
  return run;
}

Result<std::optional<std::pair<uint64_t, uint64_t>>> steps_of(const std::string& text) {
  std::optional<std::pair<uint64_t, uint64_t>> none;
  if (text.empty()) return none;
  const auto ranges = trace::parse_ranges("--steps", text);
  if (!ranges.ok()) return ranges.status();
  if (ranges->size() != 1) {
    return Status(Code::kInvalidArgument, "--steps takes one range such as 20-200");
  }
  return std::optional<std::pair<uint64_t, uint64_t>>((*ranges)[0]);
}

std::string milliseconds(double seconds) {
  char text[32];
  std::snprintf(text, sizeof text, "%.3f", seconds * 1e3);
  return text;
}

std::string percent(double share) {
  char text[32];
  std::snprintf(text, sizeof text, "%+.1f %%", 100 * share);
  return text;
}

std::string interval(const trace::Difference& d) {
  char text[48];
  std::snprintf(text, sizeof text, "%+.1f … %+.1f", 100 * d.low, 100 * d.high);
  return text;
}

std::string name(const trace::Quantity& q) {
  std::string out = q.name;
  if (q.bytes > 0) out += " " + format_bytes(q.bytes);
  return printable(out);
}

// Roles only where they say something.
bool shown(const trace::Difference& d, bool all) {
  const bool role = d.quantity.aspect != trace::Aspect::kOperation && !d.quantity.role.empty();
  return all || d.beyond_noise || !role;
}

void print(const Arguments& arguments, const Run& a, const Run& b,
           const std::vector<trace::Difference>& differences) {
  const auto head = [](const char* letter, const std::string& path, const trace::RunProfile& p) {
    std::printf("%s: %s, %u ranks, %llu steps\n", letter, path.c_str(), p.ranks(),
                static_cast<unsigned long long>(p.steps()));
  };
  head("A", arguments.a, *a.profile);
  head("B", arguments.b, *b.profile);
  Table table({"", "WHAT", "OF", "NAME", ">A ms", ">B ms", ">CHANGE", ">95 %", ">p"}, 3);
  size_t beyond = 0;
  for (const trace::Difference& d : differences) {
    beyond += d.beyond_noise ? 1 : 0;
    if (!shown(d, arguments.all)) continue;
    char p[16];
    std::snprintf(p, sizeof p, "%.2g", d.p);
    table.add({!d.beyond_noise ? ""
               : d.change > 0  ? "slower"
                               : "faster",
               trace::name_of(d.quantity.aspect),
               d.quantity.role.empty() ? "all" : printable(d.quantity.role), name(d.quantity),
               milliseconds(d.median_a), milliseconds(d.median_b), percent(d.change), interval(d),
               p});
  }
  table.print();
  std::printf("%zu of %zu quantities differ beyond noise\n", beyond, differences.size());
  const uint64_t steps = std::min(a.profile->steps(), b.profile->steps());
  const uint64_t steps_min = trace::CompareOptions{}.steps_min;
  if (steps < steps_min) {
    std::printf("too few steps to tell anything from noise: %llu, %llu are needed\n",
                static_cast<unsigned long long>(steps), static_cast<unsigned long long>(steps_min));
  }
}

Json to_json(const trace::Difference& d) {
  return {{"what", trace::name_of(d.quantity.aspect)},
          {"of", d.quantity.role},
          {"name", d.quantity.name},
          {"bytes", d.quantity.bytes},
          {"steps_a", d.steps_a},
          {"steps_b", d.steps_b},
          {"median_a_s", d.median_a},
          {"median_b_s", d.median_b},
          {"change", d.change},
          {"low", d.low},
          {"high", d.high},
          {"p", d.p},
          {"beyond_noise", d.beyond_noise}};
}

Result<int> diff(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const auto steps, steps_of(arguments.steps));
  CONVOY_ASSIGN_OR_RETURN(const auto a, load(arguments.a, steps));
  CONVOY_ASSIGN_OR_RETURN(const auto b, load(arguments.b, steps));
  trace::CompareOptions options;
  options.min_change = arguments.min_change / 100;
  const auto differences = trace::compare(*a->profile, *b->profile, options);
  if (arguments.json) {
    const auto side = [](const std::string& path, const Run& run) {
      return Json{{"file", path}, {"ranks", run.profile->ranks()}, {"steps", run.profile->steps()}};
    };
    Json json = {
        {"a", side(arguments.a, *a)}, {"b", side(arguments.b, *b)}, {"differences", Json::array()}};
    for (const trace::Difference& d : differences) json["differences"].push_back(to_json(d));
    std::printf("%s\n", json.dump(-1, ' ', false, Json::error_handler_t::replace).c_str());
  } else {
    print(arguments, *a, *b, differences);
  }
  return !differences.empty() && differences.front().beyond_noise ? kExitDiffers : 0;
}

}  // namespace

void add_trace_diff(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("diff", "Compare the steps of two runs");
  const auto a = std::make_shared<Arguments>();
  app->add_option("A", a->a, "the stream file of a run")->required();
  app->add_option("B", a->b, "that of another")->required();
  app->add_option("--steps", a->steps, "only these: 20-200")->type_name("STEPS");
  app->add_option("--min-change", a->min_change, "smaller changes are of no interest; 1")
      ->type_name("PERCENT")
      ->check(CLI::NonNegativeNumber);
  app->add_flag("--all", a->all, "show roles that don't differ, too");
  app->add_flag("--json", a->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, a] {
    const Result<int> code = diff(*a);
    invocation.exit_code = code.ok() ? *code : fail(code.status());
  });
}

}  // namespace convoy::cli
