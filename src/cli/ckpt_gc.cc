// `convoy ckpt gc`: removes old steps of a folder that no job uses.
//
// Collecting needs the folder's claim, and a job that still runs under the present one would lose
// it: its commits would fail from then on. Whether a process on some machine lives can't be told
// from here, so nothing is guessed: a job that ended in order has said so in the folder, and for
// all others a person must say it (--force).
#include "src/cli/ckpt.h"
#include "src/cli/table.h"
#include <convoy/base/units.h>

#include <cstdio>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  uint64_t keep = 0;
  uint64_t every = 0;
  std::vector<uint64_t> pins;
  bool dry_run = false;
  bool force = false;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt gc runs/a/checkpoints --keep 3 --dry-run
      what would go
  convoy ckpt gc runs/a/checkpoints --keep 3 --every 1000 --pin 1234
      the newest 3 stay, and all whose number is a multiple of 1000, and 1234
  convoy ckpt gc runs/a/checkpoints --keep 1 --force
      the job that has the folder was killed: you know that it does not run any more

A job that runs collects old steps itself; gc is for folders whose job has ended. It needs the
folder's claim: a job that still ran would lose the folder, and its next commits would fail. So gc
refuses while the folder belongs to a job that has not said that it ended; --force says it in its
place. The job can be started again afterwards, and goes on from the newest step.
Files that a kept step refers to stay, and so does what is not of the folder's layout.
Exit codes: 0; 64 bad option; 65 made by a newer Convoy; 66 no such folder; 69 a job has the folder.)";

Status held(const Folder& folder, const ckpt::Owner& owner) {
  return {
      Code::kUnavailable,
      folder.name + " belongs to " + describe(owner) +
          ", which has not said that it ended. If it runs, gc would take the folder from it and "
          "its commits would fail; it removes old steps itself. If it was killed, say so with "
          "--force. --dry-run shows what would go."};
}

Status claim(Folder& folder, const Arguments& arguments) {
  ckpt::Catalog& catalog = *folder.catalog;
  CONVOY_ASSIGN_OR_RETURN(std::optional<ckpt::Owner> owner, catalog.owner());
  if (owner && !owner->released && !arguments.force) return held(folder, *owner);
  if (!owner) {
    // Nobody's: as the job that wrote the newest step, so that it is not kept out later.
    CONVOY_ASSIGN_OR_RETURN(const ckpt::Commit newest, catalog.latest());
    owner.emplace();
    owner->job = newest.job;
    owner->generation = newest.generation;
    owner->claim = newest.claim;
  }
  if (arguments.force) {
    return catalog.take_over({owner->job, owner->generation, who_am_i("gc")}, true);
  }
  return catalog.follow(*owner, who_am_i("gc"));
}

void print(const Folder& folder, const Arguments& arguments, const ckpt::Collected& result) {
  const std::string would = arguments.dry_run ? "would be " : "";
  if (arguments.json) {
    print_json({{"folder", folder.name},
                {"dry_run", arguments.dry_run},
                {"steps", result.steps},
                {"files", result.files},
                {"bytes", result.bytes},
                {"damaged", result.damaged}});
    return;
  }
  std::string steps;
  size_t line = counted(result.steps.size(), "step").size() + would.size() + sizeof(" removed:");
  for (const uint64_t step : result.steps) {
    const std::string text = (steps.empty() ? "" : ",") + (" " + std::to_string(step));
    const bool wraps = line + text.size() + 1 > kLineWidth;  // a comma may follow
    steps += wraps ? ",\n " + std::to_string(step) : text;
    line = wraps ? text.size() : line + text.size();
  }
  if (!steps.empty()) steps.insert(0, ":");
  std::printf("%s %sremoved%s\n%s %sremoved, %s freed\n",
              counted(result.steps.size(), "step").c_str(), would.c_str(), steps.c_str(),
              counted(result.files, "file").c_str(), would.c_str(),
              format_bytes(result.bytes).c_str());
  for (const std::string& path : result.damaged) {
    std::printf("kept: %s is damaged, and what it needs can't be told\n", path.c_str());
  }
}

Status gc(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  ckpt::KeepPolicy policy;
  policy.newest = arguments.keep;
  policy.every = arguments.every;
  policy.pins = {arguments.pins.begin(), arguments.pins.end()};
  if (arguments.dry_run) {
    CONVOY_ASSIGN_OR_RETURN(const ckpt::Collected result, folder.catalog->preview(policy));
    print(folder, arguments, result);
    return ok_status();
  }
  CONVOY_RETURN_IF_ERROR(check_version(folder));
  CONVOY_RETURN_IF_ERROR(as_held(claim(folder, arguments)));
  const Result<ckpt::Collected> result = folder.catalog->collect(policy);
  if (!result.ok()) return as_held(result.status());
  print(folder, arguments, *result);
  return as_held(folder.catalog->release());
}

}  // namespace

void add_ckpt_gc(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("gc", "Remove old steps of a job that has ended");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_option("--keep", arguments->keep, "so many of the newest steps stay; at least 1")
      ->required()
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 32))
      ->type_name("N");
  app->add_option("--every", arguments->every, "and steps that are multiples of it")
      ->check(CLI::Range(uint64_t{1}, uint64_t{1} << 62))
      ->type_name("M");
  app->add_option("--pin", arguments->pins, "and this one; repeatable")
      ->take_all()
      ->expected(1)
      ->type_name("STEP");
  app->add_flag("--dry-run", arguments->dry_run, "say what would go, change nothing");
  app->add_flag("--force", arguments->force, "even if a job has the folder: you know it has ended");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = gc(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail_ckpt(status);
  });
}

}  // namespace convoy::cli
