// `convoy ckpt verify`: reads every chunk of a step and compares it with its checksum.
#include "src/cli/ckpt.h"
#include "src/cli/progress.h"
#include "src/cli/table.h"
#include <convoy/base/units.h>
#include <convoy/ckpt/restore.h>

#include <algorithm>
#include <cstdio>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  std::optional<uint64_t> step;
  bool all = false;
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt verify runs/a/checkpoints
      the newest step, and any damaged commit record that is newer
  convoy ckpt verify runs/a/checkpoints --step 1200
  convoy ckpt verify runs/a/checkpoints --all --json | jq .ok

Every bad chunk is named with the tensors that have bytes in it, and what no rank gave to the step.
Nothing is changed.
Exit codes: 0 all is right; 64 bad option; 65 something is damaged, or made by a newer Convoy;
66 no such folder or step.)";

constexpr size_t kNamesShown = 4;  // tensors of one chunk

struct Checked {
  uint64_t step = 0;
  Status record;  // why its commit record can't be read
  ckpt::VerifyReport report;
  std::vector<ckpt::MissingTensor> holes;  // that nobody gave to the step
  bool ok() const { return record.ok() && report.ok() && holes.empty(); }
};

// Records to check: the steps asked for, and damaged records among them.
Result<std::vector<ckpt::StepInfo>> choose(Folder& folder, const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(const auto infos, folder.catalog->steps());
  std::vector<ckpt::StepInfo> chosen;
  for (const ckpt::StepInfo& info : infos) {
    if (info.status.code() == Code::kAborted) continue;  // garbage by rule, whatever it holds
    if (arguments.step && info.key.step != *arguments.step) continue;
    chosen.push_back(info);
    if (info.status.ok() && !arguments.all) return chosen;
  }
  if (!chosen.empty()) return chosen;
  CONVOY_RETURN_IF_ERROR(load_step(folder, arguments.step).status());
  return Status(Code::kNotFound, folder.name + " has no committed step.");
}

void print_bad(const Checked& checked) {
  if (!checked.record.ok()) std::printf("damaged: %s\n", checked.record.message().c_str());
  for (const Status& status : checked.report.bad_parts) {
    std::printf("damaged: %s\n", status.message().c_str());
  }
  for (const ckpt::BadChunk& bad : checked.report.bad) {
    std::string names;
    for (size_t i = 0; i < std::min(bad.tensors.size(), kNamesShown); ++i) {
      names += (i == 0 ? "" : ", ") + printable(bad.tensors[i]);
    }
    if (bad.tensors.size() > kNamesShown) {
      names += " and " + std::to_string(bad.tensors.size() - kNamesShown) + " more";
    }
    std::printf("damaged: %s\n  tensors: %s\n", bad.status.message().c_str(), names.c_str());
  }
  for (size_t i = 0; i < std::min(checked.holes.size(), kNamesShown); ++i) {
    const ckpt::MissingTensor& hole = checked.holes[i];
    std::printf("incomplete: no rank gave %s of tensor %s\n",
                hole.box.empty() ? "anything" : hole.box.c_str(), printable(hole.name).c_str());
  }
  if (checked.holes.size() > kNamesShown) {
    std::printf("incomplete: %s more\n",
                counted(checked.holes.size() - kNamesShown, "piece").c_str());
  }
}

void print_step(const Checked& checked) {
  print_bad(checked);
  if (!checked.record.ok()) return;
  const ckpt::VerifyProgress& done = checked.report.done;
  const std::string what = counted(done.chunks, "chunk") + " of " + counted(done.parts, "part") +
                           ", " + format_bytes(done.bytes);
  if (checked.report.ok() && !checked.holes.empty()) {
    std::printf("step %s: %s, all right but INCOMPLETE: it can be loaded in part only\n",
                std::to_string(checked.step).c_str(), what.c_str());
  } else if (checked.ok()) {
    std::printf("step %s: %s, all right\n", std::to_string(checked.step).c_str(), what.c_str());
  } else {
    std::printf("step %s: %s, DAMAGED: %s, %s\n", std::to_string(checked.step).c_str(),
                what.c_str(), counted(checked.report.bad.size(), "bad chunk").c_str(),
                counted(checked.report.bad_parts.size(), "bad part").c_str());
  }
}

Json to_json(const Checked& checked) {
  const ckpt::VerifyProgress& done = checked.report.done;
  Json json = {{"step", checked.step},       {"ok", checked.ok()},
               {"chunks", done.chunks},      {"bytes", done.bytes},
               {"parts", done.parts},        {"bad_chunks", Json::array()},
               {"bad_parts", Json::array()}, {"missing", Json::array()}};
  if (!checked.record.ok()) json["bad_record"] = checked.record.message();
  for (const ckpt::BadChunk& bad : checked.report.bad) {
    json["bad_chunks"].push_back({{"part", bad.part},
                                  {"rank", bad.rank},
                                  {"chunk", bad.chunk},
                                  {"file", bad.file},
                                  {"offset", bad.offset},
                                  {"tensors", bad.tensors},
                                  {"reason", bad.status.message()}});
  }
  for (const Status& status : checked.report.bad_parts) {
    json["bad_parts"].push_back(status.message());
  }
  for (const ckpt::MissingTensor& hole : checked.holes) {
    json["missing"].push_back({{"tensor", hole.name}, {"box", hole.box}});
  }
  return json;
}

Result<Checked> check(Folder& folder, const ckpt::StepInfo& info) {
  Checked checked;
  checked.step = info.key.step;
  checked.record = info.status;
  if (!info.status.ok()) {
    // A newer Convoy's record is no damage, and says what to do.
    if (info.status.code() == Code::kDataLoss) return checked;
    return info.status;
  }
  uint64_t total = 0;
  CONVOY_ASSIGN_OR_RETURN(const ckpt::Commit commit, load_record(folder, info));
  total = bytes_of(commit);
  Progress progress("verified");
  CONVOY_ASSIGN_OR_RETURN(
      checked.report, folder.catalog->verify(info.key.step, [&](const ckpt::VerifyProgress& done) {
        progress.show(done.bytes, total);
        return true;
      }));
  if (checked.report.bad_parts.empty()) {
    ckpt::StoreSource source(*folder.store, commit);
    CONVOY_ASSIGN_OR_RETURN(checked.holes, ckpt::find_holes(source));
  }
  return checked;
}

Result<int> verify(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Folder folder, open_folder(arguments.folder));
  CONVOY_ASSIGN_OR_RETURN(const auto chosen, choose(folder, arguments));
  Json steps = Json::array();
  bool ok = true;
  for (const ckpt::StepInfo& info : chosen) {
    CONVOY_ASSIGN_OR_RETURN(const Checked checked, check(folder, info));
    ok = ok && checked.ok();
    if (arguments.json) {
      steps.push_back(to_json(checked));
    } else {
      print_step(checked);
    }
  }
  if (arguments.json) print_json({{"folder", folder.name}, {"ok", ok}, {"steps", steps}});
  return ok ? 0 : kExitDamaged;
}

}  // namespace

void add_ckpt_verify(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("verify", "Read a step and check every byte");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  CLI::Option* step =
      app->add_option("--step", arguments->step, "a committed step")->type_name("N");
  app->add_flag("--all", arguments->all, "every committed step")->excludes(step);
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Result<int> code = verify(*arguments);
    invocation.exit_code = code.ok() ? *code : fail_ckpt(code.status());
  });
}

}  // namespace convoy::cli
