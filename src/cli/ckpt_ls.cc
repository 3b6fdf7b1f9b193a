// `convoy ckpt ls`: which steps a folder holds.
#include "src/cli/ckpt.h"
#include "src/cli/table.h"
#include <convoy/base/units.h>

#include <algorithm>
#include <cstdio>
#include <map>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  bool json = false;
};

struct Listed {
  ckpt::StepInfo info;
  ckpt::Commit commit;        // if info.status is ok
  uint64_t stored_bytes = 0;  // of the files in its step's folder
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt ls runs/a/checkpoints
  convoy ckpt ls runs/a/checkpoints --json | jq '.steps[0].step'

Newest first: by claim (each start of a job takes a new one), then by step. TENSORS is the size of
the tensors, FILES that of the files in the step's own folder: less, if a later step took over what
had not changed. Records that don't count are listed with the reason.
Exit codes: 0; 64 bad option; 66 no such folder.)";

// Bytes of the files below data/, by "data/s000000000120/".
Result<std::map<std::string, uint64_t>> sizes_of_folders(Folder& folder) {
  CONVOY_ASSIGN_OR_RETURN(const auto entries, folder.store->list("data/"));
  std::map<std::string, uint64_t> sizes;
  for (const ckpt::StoreEntry& entry : entries) {
    const size_t slash = entry.path.find('/', sizeof("data/") - 1);
    if (slash != std::string::npos) sizes[entry.path.substr(0, slash + 1)] += entry.bytes;
  }
  return sizes;
}

Result<std::vector<Listed>> list(Folder& folder) {
  CONVOY_ASSIGN_OR_RETURN(const auto infos, folder.catalog->steps());
  CONVOY_ASSIGN_OR_RETURN(const auto sizes, sizes_of_folders(folder));
  std::vector<Listed> listed;
  for (const ckpt::StepInfo& info : infos) {
    Listed& one = listed.emplace_back(Listed{info, {}, 0});
    if (!info.status.ok()) continue;
    Result<ckpt::Commit> commit = load_record(folder, info);
    if (!commit.ok()) {
      one.info.status = commit.status();  // collected while we looked, or damaged since
      continue;
    }
    one.commit = std::move(commit).value();
    // commits/s000000000120-c00000007 → data/s000000000120/
    const std::string name = info.path.substr(info.path.find('/') + 1);
    const auto found = sizes.find("data/" + name.substr(0, name.find('-')) + "/");
    if (found != sizes.end()) one.stored_bytes = found->second;
  }
  return listed;
}

Json to_json(const Folder& folder, const std::optional<ckpt::Owner>& owner,
             const std::vector<Listed>& listed) {
  Json json = {{"folder", folder.name}, {"owner", nullptr}};
  if (owner) json["owner"] = json_of(*owner);
  json["steps"] = Json::array();
  json["ignored"] = Json::array();
  for (const Listed& one : listed) {
    const ckpt::Commit& commit = one.commit;
    if (!one.info.status.ok()) {
      json["ignored"].push_back({{"path", one.info.path},
                                 {"step", one.info.key.step},
                                 {"claim", one.info.key.claim},
                                 {"reason", one.info.status.message()}});
      continue;
    }
    json["steps"].push_back({{"step", commit.step},
                             {"claim", commit.claim},
                             {"wall_ns", commit.wall_ns},
                             {"job", commit.job},
                             {"generation", commit.generation},
                             {"world_size", commit.world_size},
                             {"mesh", commit.mesh},
                             {"tensors", commit.tensors.size()},
                             {"tensor_bytes", bytes_of(commit)},
                             {"stored_bytes", one.stored_bytes},
                             {"parts", commit.parts.size()},
                             {"steps", commit.steps}});
  }
  return json;
}

void print_table(const std::vector<Listed>& listed) {
  Table table({">STEP", "COMMITTED (UTC)", "JOB", ">GEN", ">RANKS", "MESH", ">TENSORS", "SIZE",
               ">FILES", ">PARTS"},
              2);
  for (const Listed& one : listed) {
    const ckpt::Commit& commit = one.commit;
    if (!one.info.status.ok()) continue;
    table.add({std::to_string(commit.step), format_time(commit.wall_ns), printable(commit.job),
               std::to_string(commit.generation), std::to_string(commit.world_size),
               commit.mesh.empty() ? "-" : shortened(printable(commit.mesh), 20),
               std::to_string(commit.tensors.size()), format_bytes(bytes_of(commit)),
               format_bytes(one.stored_bytes), std::to_string(commit.parts.size())});
  }
  table.print();
}

Status ls(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  CONVOY_ASSIGN_OR_RETURN(const auto owner, folder.catalog->owner());
  CONVOY_ASSIGN_OR_RETURN(const std::vector<Listed> listed, list(folder));
  if (arguments.json) {
    print_json(to_json(folder, owner, listed));
    return ok_status();
  }
  const auto counts = [](const Listed& one) { return one.info.status.ok(); };
  if (std::ranges::any_of(listed, counts)) {
    print_table(listed);
  } else {
    std::printf("%s has no committed step\n", folder.name.c_str());
  }
  for (const Listed& one : listed) {
    if (!counts(one)) std::printf("does not count: %s\n", one.info.status.message().c_str());
  }
  std::printf("the folder belongs to %s\n", describe(owner).c_str());
  return ok_status();
}

}  // namespace

void add_ckpt_ls(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("ls", "List the steps of a checkpoint folder");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_flag("--json", arguments->json, "print it as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Status status = ls(*arguments);
    invocation.exit_code = status.ok() ? 0 : fail_ckpt(status);
  });
}

}  // namespace convoy::cli
