// `convoy schedule`: pipeline schedules on the terminal, as a picture, and as JSON.
#include "src/cli/commands.h"
#include <convoy/base/atomic_file.h>
#include <convoy/parallel/schedule/picture.h>
#include <convoy/parallel/schedule/validate.h>

#include <nlohmann/json.hpp>

#include <cstdio>
#include <memory>
#include <span>
#include <string>

namespace convoy::cli {
namespace {

struct ScheduleArguments {
  std::string name = "1f1b";
  int ranks = 0;
  int microbatches = 0;
  int chunks = 1;
  schedule::Costs costs;
  std::string svg;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy schedule show --schedule 1f1b --ranks 4 --microbatches 8
      F3 is the forward of micro-batch 3, B3 and what follows its backward, . is idle time
  convoy schedule show --schedule interleaved --ranks 4 --microbatches 8 --chunks 2 --svg plan.svg
  convoy schedule show --schedule gpipe --ranks 2 --microbatches 4 --json | jq .bubble_fraction

The terminal picture counts a backward as two forwards and messages as nothing; the SVG and the
JSON use --forward, --backward and --comm.
Exit codes: 0; 64 bad option or input; 66 no such folder for --svg.)";

std::string to_json(const schedule::Schedule& plan, const schedule::Timeline& timeline) {
  nlohmann::ordered_json json = {{"schedule", plan.name},
                                 {"ranks", plan.ranks},
                                 {"microbatches", plan.microbatches},
                                 {"chunks", plan.chunks},
                                 {"time", timeline.makespan},
                                 {"bubble_fraction", timeline.bubble_fraction},
                                 {"max_activations", plan.max_activations}};
  for (int rank = 0; rank < plan.ranks; ++rank) {
    json["peak_activations"].push_back(schedule::peak_activations(plan, rank));
    nlohmann::ordered_json steps = nlohmann::ordered_json::array();
    for (const schedule::Step& step : plan.steps[rank]) {
      nlohmann::ordered_json actions = nlohmann::ordered_json::array();
      for (const schedule::Action& action : step) {
        nlohmann::ordered_json one = {{"kind", schedule::kind_name(action.kind)},
                                      {"microbatch", action.microbatch},
                                      {"chunk", action.chunk}};
        if (action.peer >= 0) one["peer"] = action.peer;
        actions.push_back(std::move(one));
      }
      steps.push_back(std::move(actions));
    }
    json["steps"].push_back(std::move(steps));
  }
  return json.dump();
}

Status show(const ScheduleArguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const schedule::Schedule plan,
                          schedule::make_schedule(arguments.name, arguments.ranks,
                                                  arguments.microbatches, arguments.chunks));
  CONVOY_ASSIGN_OR_RETURN(const schedule::Timeline timeline,
                          schedule::simulate(plan, arguments.costs));
  if (!arguments.svg.empty()) {
    CONVOY_ASSIGN_OR_RETURN(const std::string svg, schedule::to_svg(plan, arguments.costs));
    CONVOY_RETURN_IF_ERROR(write_file(arguments.svg, svg));
  }
  if (arguments.json) {
    std::printf("%s\n", to_json(plan, timeline).c_str());
    return ok_status();
  }
  CONVOY_ASSIGN_OR_RETURN(const std::string text, schedule::to_text(plan));
  std::fputs(text.c_str(), stdout);
  if (!arguments.svg.empty()) std::printf("picture: %s\n", arguments.svg.c_str());
  return ok_status();
}

}  // namespace

void add_schedule(CLI::App& root, Invocation& invocation) {
  CLI::App* group = root.add_subcommand("schedule", "Show pipeline schedules");
  group->require_subcommand(1);
  CLI::App* app = group->add_subcommand("show", "Draw one schedule and state its bubble");
  const auto arguments = std::make_shared<ScheduleArguments>();  // of the options and the callback
  app->add_option("--schedule", arguments->name, "gpipe, 1f1b or interleaved")
      ->capture_default_str();
  app->add_option("--ranks", arguments->ranks, "pipeline ranks (pp)")->required();
  app->add_option("--microbatches", arguments->microbatches, "micro-batches a step")->required();
  app->add_option("--chunks", arguments->chunks, "chunks of the model on each rank (interleaved)")
      ->capture_default_str();
  app->add_option("--forward", arguments->costs.forward, "time of a rank's forward")
      ->capture_default_str();
  app->add_option("--backward", arguments->costs.backward, "time of a rank's backward")
      ->capture_default_str();
  app->add_option("--comm", arguments->costs.comm, "time of a message between stages")
      ->capture_default_str();
  app->add_option("--svg", arguments->svg, "write the picture to this file, too");
  app->add_flag("--json", arguments->json, "print all actions as one line of JSON instead");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = show(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail(status);
  });
}

}  // namespace convoy::cli
