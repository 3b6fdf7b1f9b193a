// `convoy goodput`: what share of its time a job of any size trains in, by the rates at which
// things fail, the recovery policy, and what each thing takes.
#include "src/resilience/goodput/goodput.h"

#include "src/cli/commands.h"
#include "src/cli/table.h"
#include <convoy/base/atomic_file.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>

namespace convoy::cli {
namespace {

namespace goodput = resilience::goodput;

constexpr const char* kFooter = R"(Examples:
  convoy goodput                       Llama 3's failures on its 16,384 ranks, for 54 days
  convoy goodput --costs gpu --vary --svg goodput.svg
  convoy goodput --ranks 1024 --mesh tp=8,dp=* --spares 1 --set respawn_s=90,step_s=2
  convoy goodput --mix failures.json --costs costs.json --json | jq .share

Nothing runs: failures are drawn, each is decided on by the policy that `convoy run` has, and its
cost is added up. A mix: {"name": "ours", "ranks": 512, "days": 30, "causes": [
  {"name": "GPU", "count": 7, "kind": "exit", "seen": "end", "stays": true}]}
kind: exit, killed, out_of_memory, hang, node_lost, network, corruption; seen: end, line, silence,
hang, compare; stays: the machine is broken until it is repaired. Counts are of the mix's ranks and
days. A file of costs, and --set, name some of the constants that --json lists.

Exit codes: 0; 64 bad option, mix or costs; 66 no such file.)";

struct GoodputArguments {
  int ranks = 16384, per_node = 8, spares = 16, seeds = 5;
  uint64_t seed = 1;
  double days = 54;
  std::string mesh = "tp=8,pp=16,dp=*", mix = "llama3", costs = "measured", svg;
  std::vector<std::string> set;
  bool no_replicas = false, vary = false, json = false;
};

Result<std::string> text_of(const std::string& path) {
  std::ifstream file(path);
  if (!file) return Status(Code::kNotFound, "there is no file " + path);
  return std::string{std::istreambuf_iterator<char>(file), {}};
}

Result<goodput::Mix> mix_of(const std::string& name) {
  if (name == "llama3") return goodput::llama3();
  CONVOY_ASSIGN_OR_RETURN(const std::string text, text_of(name));
  auto mix = goodput::mix_of_json(text);
  if (!mix.ok()) return mix.status().with_context(name);
  return mix;
}

Result<goodput::Constants> constants_of(const GoodputArguments& a) {
  goodput::Constants constants;
  if (a.costs.find('.') == std::string::npos && a.costs.find('/') == std::string::npos) {
    CONVOY_ASSIGN_OR_RETURN(constants, goodput::constants_of(a.costs));
  } else {
    CONVOY_ASSIGN_OR_RETURN(const std::string text, text_of(a.costs));
    const Status changed = goodput::change(constants, text);
    if (!changed.ok()) return changed.with_context(a.costs);
  }
  for (const std::string& one : a.set) {
    const size_t at = one.find('=');
    if (at == std::string::npos) {
      return Status(Code::kInvalidArgument, "--set takes name=number, not '" + one + "'");
    }
    const std::string json = "{\"" + one.substr(0, at) + "\": " + one.substr(at + 1) + "}";
    const Status changed = goodput::change(constants, json);
    if (!changed.ok()) return changed.with_context("--set " + one);
  }
  return constants;
}

Result<goodput::Setup> setup_of(const GoodputArguments& a) {
  CONVOY_ASSIGN_OR_RETURN(Mesh mesh, Mesh::parse(a.mesh, a.ranks));
  CONVOY_ASSIGN_OR_RETURN(const goodput::Constants constants, constants_of(a));
  return goodput::Setup{.mesh = std::move(mesh),
                        .per_node = a.per_node,
                        .spares = a.spares,
                        .is_replicated = !a.no_replicas,
                        .days = a.days,
                        .constants = constants};
}

std::string percent(double share, const char* format = "%.3f %%") {
  char text[32];
  std::snprintf(text, sizeof text, format, 100 * share);
  return text;
}

std::string whole(double value) {
  char text[32];
  std::snprintf(text, sizeof text, "%.1f", value);
  return text;
}

nlohmann::ordered_json json_of(const goodput::Outcome& o) {
  nlohmann::ordered_json json{{"effective", o.useful()}, {"least", o.least}, {"most", o.most}};
  for (int part = 0; part < goodput::kParts; ++part) {
    json["share"][goodput::name_of(static_cast<goodput::Part>(part))] =
        o.share[static_cast<size_t>(part)];
  }
  json["failures"] = o.incidents;
  json["replaced"] = o.replaced;
  json["respawned"] = o.respawned;
  json["shrunk"] = o.shrunk;
  json["stopped"] = o.stops;
  return json;
}

void print_json(const goodput::Setup& setup, const goodput::Mix& mix,
                const std::vector<goodput::Row>& rows) {
  nlohmann::ordered_json json{{"ranks", setup.mesh.size()},
                              {"mesh", setup.mesh.to_string()},
                              {"days", setup.days},
                              {"spares", setup.spares},
                              {"mix", mix.name}};
  for (const goodput::Constant& c : goodput::kConstants) {
    json["constants"][c.name] = setup.constants.*c.value;
  }
  json.update(json_of(rows.front().outcome));
  for (size_t i = 1; i < rows.size(); ++i) {
    nlohmann::ordered_json row = json_of(rows[i].outcome);
    row["what"] = rows[i].what;
    json["varied"].push_back(std::move(row));
  }
  std::printf("%s\n", json.dump().c_str());
}

void print(const goodput::Setup& setup, const goodput::Mix& mix,
           const std::vector<goodput::Row>& rows) {
  const goodput::Outcome& o = rows.front().outcome;
  std::printf("%d ranks, mesh %s, %d spare nodes of %d, %g days, failures of %s\n\n",
              setup.mesh.size(), setup.mesh.to_string().c_str(), setup.spares, setup.per_node,
              setup.days, printable(mix.name).c_str());
  Table parts({"time goes to", ">share", ">hours"}, 0);
  for (size_t part = 0; part < goodput::kParts; ++part) {
    if (o.share[part] == 0) continue;
    parts.add({goodput::name_of(static_cast<goodput::Part>(part)), percent(o.share[part]),
               whole(o.share[part] * setup.days * 24)});
  }
  parts.print();
  std::printf(
      "\neffective time %s (%s to %s by seed); %.0f failures: %.0f times other nodes, %.0f times "
      "the "
      "same one, %.1f times fewer replicas, %.1f times stopped\n",
      percent(o.useful(), "%.2f %%").c_str(), percent(o.least, "%.2f").c_str(),
      percent(o.most, "%.2f %%").c_str(), o.incidents, o.replaced, o.respawned, o.shrunk, o.stops);
  if (rows.size() == 1) return;
  std::printf("\n");
  Table varied({"if", ">effective", ">lost", ">stopped"}, 0);
  for (const goodput::Row& row : rows) {
    varied.add({row.what, percent(row.outcome.useful(), "%.2f %%"),
                percent(1 - row.outcome.useful(), "%.2f %%"), whole(row.outcome.stops)});
  }
  varied.print();
}

Status run(const GoodputArguments& a) {
  CONVOY_ASSIGN_OR_RETURN(const goodput::Setup setup, setup_of(a));
  CONVOY_ASSIGN_OR_RETURN(const goodput::Mix mix, mix_of(a.mix));
  std::vector<goodput::Row> rows;
  if (a.vary) {
    CONVOY_ASSIGN_OR_RETURN(rows, goodput::vary(setup, mix, a.seed, a.seeds));
  } else {
    CONVOY_ASSIGN_OR_RETURN(const auto outcome, goodput::simulate(setup, mix, a.seed, a.seeds));
    rows.push_back({"as given", outcome});
  }
  if (!a.svg.empty()) {
    const std::string title = std::to_string(setup.mesh.size()) + " ranks, failures of " +
                              mix.name + ", costs: " + a.costs;
    CONVOY_RETURN_IF_ERROR(write_file(a.svg, goodput::to_svg(rows, title)));
  }
  if (a.json) {
    print_json(setup, mix, rows);
  } else {
    print(setup, mix, rows);
    if (!a.svg.empty()) std::printf("picture: %s\n", a.svg.c_str());
  }
  return ok_status();
}

void add_options(CLI::App* app, const std::shared_ptr<GoodputArguments>& a) {
  app->add_option("--ranks", a->ranks, "of the job; default 16384")->check(CLI::Range(1, 1 << 20));
  app->add_option("--mesh", a->mesh, "default tp=8,pp=16,dp=*");
  app->add_option("--per-node", a->per_node, "ranks on a node; default 8")
      ->check(CLI::PositiveNumber);
  app->add_option("--spares", a->spares, "nodes more, on which processes wait; default 16")
      ->check(CLI::NonNegativeNumber);
  app->add_option("--days", a->days, "how long it runs; default 54")->check(CLI::PositiveNumber);
  app->add_option("--mix", a->mix, "what fails how often: llama3, or a JSON file");
  app->add_option(
      "--costs", a->costs,
      "what each thing takes: measured, gpu (published, where only GPUs could tell), or\n"
      "a JSON file; default measured");
  app->add_option("--set", a->set, "constants in place of those: name=number,…")->delimiter(',');
  app->add_flag("--no-replicas", a->no_replicas, "state is on one rank only, as with --zero");
  app->add_option("--seed", a->seed, "draws the failures; default 1");
  app->add_option("--seeds", a->seeds, "so many runs; default 5")->check(CLI::Range(1, 1000));
  app->add_flag("--vary", a->vary, "what becomes of it when one thing is another one");
  app->add_option("--svg", a->svg, "write a picture to this file, too");
  app->add_flag("--json", a->json, "everything as one JSON object");
}

}  // namespace

void add_goodput(CLI::App& root, Invocation& invocation) {
  CLI::App* app =
      root.add_subcommand("goodput", "Work out what share of its time a job would train in");
  const auto arguments = std::make_shared<GoodputArguments>();
  add_options(app, arguments);
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = run(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
