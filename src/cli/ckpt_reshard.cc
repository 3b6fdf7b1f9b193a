// `convoy ckpt reshard`: a step once more, cut for another number of ranks.
#include "src/cli/ckpt.h"
#include "src/cli/progress.h"
#include <convoy/base/config.h>
#include <convoy/base/units.h>
#include <convoy/ckpt/recut.h>
#include <convoy/mesh/mesh.h>

#include <algorithm>
#include <cstdio>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  std::string to;
  std::string mesh;
  std::optional<uint64_t> step;
  std::string dtype;
  std::string job;
  bool force = false;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt reshard runs/a/checkpoints --to runs/b/checkpoints --mesh dp=8
      the newest step, with a file for each of 8 ranks
  convoy ckpt reshard runs/a/checkpoints --step 1200 --to serve --mesh tp=4 --dtype bfloat16 --job serve

A job does not need it: any mesh loads any step. It is for layouts where each rank should read a file
of its own: tensors are cut along their first dimension that has an index for each rank, small ones
go whole to the rank that has least. Checksums are verified on the way; --dtype converts float
tensors. FOLDER of --to is made if it isn't there, and belongs to --job afterwards.
Exit codes: 0; 64 bad option, or the step is there; 65 the step is damaged; 66 no such folder or
step; 69 FOLDER of --to belongs to a job that has not ended, or to another one; 71 no room.)";

void print(const Arguments& arguments, const ckpt::Commit& commit, const ckpt::Recut& result,
           uint32_t ranks) {
  if (arguments.json) {
    print_json({{"folder", arguments.to},
                {"step", commit.step},
                {"ranks", ranks},
                {"tensors", result.tensors},
                {"bytes", result.bytes},
                {"least_bytes", result.least},
                {"most_bytes", result.most}});
    return;
  }
  std::printf("step %s: %s, %s, for %s in %s; a rank has %s to %s\n",
              std::to_string(commit.step).c_str(), counted(result.tensors, "tensor").c_str(),
              format_bytes(result.bytes).c_str(), counted(ranks, "rank").c_str(),
              arguments.to.c_str(), format_bytes(result.least).c_str(),
              format_bytes(result.most).c_str());
}

// The product of the mesh's sizes.
Result<uint32_t> ranks_of(const std::string& mesh) {
  int64_t ranks = 1;
  for (const std::string& word : split(mesh, ',')) {
    const size_t equals = word.find('=');
    if (equals == std::string::npos || word.starts_with("order")) continue;
    CONVOY_ASSIGN_OR_RETURN(const int64_t size, parse_integer("--mesh", word.substr(equals + 1), 1,
                                                              ckpt::kRecutRanksMax));
    ranks = std::min<int64_t>(ranks * size, INT32_MAX);
  }
  CONVOY_RETURN_IF_ERROR(Mesh::parse(mesh, static_cast<int>(ranks)).status());
  return static_cast<uint32_t>(ranks);
}

Status reshard(const Arguments& arguments) {
  ckpt::RecutOptions options;
  CONVOY_ASSIGN_OR_RETURN(options.ranks, ranks_of(arguments.mesh));
  options.mesh = arguments.mesh;
  if (!arguments.dtype.empty()) {
    CONVOY_ASSIGN_OR_RETURN(options.dtype, ckpt::parse_dtype(arguments.dtype));
  }
  CONVOY_ASSIGN_OR_RETURN(Folder from, open_folder(arguments.folder));
  CONVOY_ASSIGN_OR_RETURN(const ckpt::Commit commit, load_step(from, arguments.step));
  const std::string job = arguments.job.empty() ? commit.job : arguments.job;
  CONVOY_ASSIGN_OR_RETURN(Folder to,
                          claim_target(arguments.to, job, commit.step, arguments.force, "reshard"));
  Progress progress("resharded");
  options.progress = [&](uint64_t done, uint64_t total) {
    progress.show(done, total);
    return true;
  };
  const auto result = ckpt::recut(*from.store, commit, *to.store, *to.catalog, options);
  progress.end();
  const Status released = to.catalog->release();  // whatever came of it
  CONVOY_RETURN_IF_ERROR(as_held(result.status()));
  CONVOY_RETURN_IF_ERROR(as_held(released));
  print(arguments, commit, *result, options.ranks);
  return ok_status();
}

}  // namespace

void add_ckpt_reshard(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("reshard", "Write a step again, cut for other ranks");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_option("--to", arguments->to, "another one, in which the step is made")
      ->required()
      ->type_name("FOLDER");
  app->add_option("--mesh", arguments->mesh, "how many ranks: the product of its sizes")
      ->required()
      ->type_name("tp=2,dp=4");
  app->add_option("--step", arguments->step, "a committed step; default: the newest")
      ->type_name("N");
  app->add_option("--dtype", arguments->dtype, "float tensors become this type")
      ->type_name("DTYPE");
  app->add_option("--job", arguments->job, "that is to go on from it; default: the step's")
      ->type_name("NAME");
  app->add_flag("--force", arguments->force,
                "even if the folder is another's: you know it has ended");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = reshard(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail_ckpt(status);
  });
}

}  // namespace convoy::cli
