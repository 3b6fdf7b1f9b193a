// `convoy ckpt scrub`: reads steps from the disk, slowly if told so, and mends them from a copy.
#include "src/cli/ckpt.h"
#include "src/cli/progress.h"
#include <convoy/base/units.h>
#include <convoy/ckpt/scrub.h>

#include <cstdio>

namespace convoy::cli {
namespace {

struct Arguments {
  std::string folder;
  std::optional<uint64_t> step;
  std::string from;
  std::string bandwidth = "0";
  bool json = false;
};

constexpr const char* kFooter = R"(Examples:
  convoy ckpt scrub runs/a/checkpoints --bandwidth 50MiB
      every committed step, from the disk itself, with 50 MiB/s: for a timer
  convoy ckpt scrub runs/a/checkpoints --from /backup/a/checkpoints
      and what is damaged is replaced by the copy's, if that is whole
  convoy ckpt scrub runs/a/checkpoints --from s3://bucket/a
      the same from the job's remote tier
  convoy ckpt scrub runs/a/checkpoints --step 1200 --json

`verify` reads through the page cache, which may hold what the disk has lost; scrub reads past it.
A copy is a folder with the same files, or a remote tier with the same steps (that one mends data
that is not compressed, and no records); it is believed only where checksums match. Damaged files
are replaced as a whole, at once. May run beside a job.
Exit codes: 0 all is right now; 64 bad option; 65 something is damaged still, or made by a newer
Convoy; 66 no such folder or step.)";

struct Scrubbed {
  uint64_t step = 0;
  bool record_healed = false;
  Status record;  // why its commit record can't be used
  ckpt::ScrubReport report;
  bool ok() const { return record.ok() && report.ok(); }
};

struct Job {
  Folder folder;
  std::optional<Folder> copy;
  std::vector<std::unique_ptr<ckpt::StoreMender>> copies;
  std::vector<ckpt::Mender*> menders;
  std::shared_ptr<ckpt::DiskEngine> engine;
};

Result<Job> prepare(const Arguments& arguments) {
  Job job;
  CONVOY_ASSIGN_OR_RETURN(job.folder, open_folder(arguments.folder));
  if (!arguments.from.empty()) {
    CONVOY_ASSIGN_OR_RETURN(job.copy, open_folder(arguments.from));
    job.copies.push_back(std::make_unique<ckpt::StoreMender>(*job.copy->store));
    job.menders.push_back(job.copies.back().get());
  }
  ckpt::DiskOptions disk;
  disk.queue_depth = 2;
  CONVOY_ASSIGN_OR_RETURN(disk.bandwidth, parse_bytes("--bandwidth", arguments.bandwidth));
  CONVOY_ASSIGN_OR_RETURN(job.engine, ckpt::DiskEngine::create(disk));
  return job;
}

Result<std::unique_ptr<ckpt::FileStepSource>> open_source(Job& job, const ckpt::Commit& commit) {
  if (ckpt::is_store_uri(job.folder.name)) {
    return std::unique_ptr<ckpt::FileStepSource>(
        std::make_unique<ckpt::StoreSource>(*job.folder.store, commit));
  }
  CONVOY_ASSIGN_OR_RETURN(auto source,
                          ckpt::FolderSource::create(job.folder.name, commit, job.engine));
  return std::unique_ptr<ckpt::FileStepSource>(std::move(source));
}

Result<Scrubbed> scrub_step(Job& job, const ckpt::StepInfo& info) {
  Scrubbed scrubbed;
  scrubbed.step = info.key.step;
  if (!info.status.ok()) {
    if (info.status.code() != Code::kDataLoss) return info.status;
    scrubbed.record = ckpt::mend_commit(*job.folder.store, info, job.menders);
    if (scrubbed.record.code() == Code::kDataLoss) return scrubbed;
    CONVOY_RETURN_IF_ERROR(scrubbed.record);
    scrubbed.record_healed = true;
  }
  CONVOY_ASSIGN_OR_RETURN(const ckpt::Commit commit, load_record(job.folder, info));
  const uint64_t total = bytes_of(commit);
  CONVOY_ASSIGN_OR_RETURN(const auto source, open_source(job, commit));
  Progress progress("scrubbed");
  ckpt::ScrubOptions options;
  options.menders = job.menders;
  // A remote tier has the same steps in files of its own.
  ckpt::StepMender other_files(job.copy ? job.copy->name : "", [&](uint64_t step) {
    return ckpt::open_step(*job.copy->store, step);
  });
  if (job.copy) options.menders.push_back(&other_files);
  options.progress = [&](const ckpt::VerifyProgress& done) {
    progress.show(done.bytes, total);
    return true;
  };
  CONVOY_ASSIGN_OR_RETURN(scrubbed.report, ckpt::scrub(*source, *job.folder.store, options));
  return scrubbed;
}

void print(const Job& job, const Scrubbed& scrubbed) {
  const ckpt::ScrubReport& report = scrubbed.report;
  if (scrubbed.record_healed) {
    std::printf("healed: the commit record of step %s\n", std::to_string(scrubbed.step).c_str());
  }
  if (!scrubbed.record.ok()) std::printf("damaged: %s\n", scrubbed.record.message().c_str());
  for (const Status& status : report.found.bad_parts) {
    std::printf("damaged: %s\n", status.message().c_str());
  }
  for (const ckpt::BadChunk& bad : report.found.bad) {
    std::printf("damaged: %s\n", bad.status.message().c_str());
  }
  for (const std::string& path : report.healed) {
    std::printf("healed: %s, from %s\n", path.c_str(), job.copy->name.c_str());
  }
  for (const Status& status : report.left) {
    std::printf("damaged: %s\n", status.message().c_str());
  }
  if (!scrubbed.record.ok()) return;
  const ckpt::VerifyProgress& done = report.found.done;
  std::printf("step %s: %s of %s, %s, %s\n", std::to_string(scrubbed.step).c_str(),
              counted(done.chunks, "chunk").c_str(), counted(done.parts, "part").c_str(),
              format_bytes(done.bytes).c_str(),
              !scrubbed.ok()                                     ? "DAMAGED"
              : report.healed.empty() && !scrubbed.record_healed ? "all right"
                                                                 : "all right now");
}

Json to_json(const Scrubbed& scrubbed) {
  const ckpt::ScrubReport& report = scrubbed.report;
  Json json = {{"step", scrubbed.step},
               {"ok", scrubbed.ok()},
               {"chunks", report.found.done.chunks},
               {"bytes", report.found.done.bytes},
               {"bad_chunks", report.found.bad.size()},
               {"bad_parts", report.found.bad_parts.size()},
               {"record_healed", scrubbed.record_healed},
               {"healed", report.healed},
               {"left", Json::array()}};
  if (!scrubbed.record.ok()) json["left"].push_back(scrubbed.record.message());
  for (const Status& status : report.left) json["left"].push_back(status.message());
  return json;
}

Result<int> scrub(const Arguments& arguments) {
  CONVOY_ASSIGN_OR_RETURN(Job job, prepare(arguments));
  CONVOY_ASSIGN_OR_RETURN(const auto infos, job.folder.catalog->steps());
  Json steps = Json::array();
  bool ok = true;
  size_t found = 0;
  for (const ckpt::StepInfo& info : infos) {
    if (info.status.code() == Code::kAborted) continue;  // by one who had lost the folder
    if (arguments.step && info.key.step != *arguments.step) continue;
    ++found;
    const Result<Scrubbed> result = scrub_step(job, info);
    if (result.status().code() == Code::kNotFound) continue;  // the job has removed it meanwhile
    CONVOY_ASSIGN_OR_RETURN(const Scrubbed scrubbed, result);
    ok = ok && scrubbed.ok();
    if (arguments.json) {
      steps.push_back(to_json(scrubbed));
    } else {
      print(job, scrubbed);
    }
  }
  if (found == 0) {
    CONVOY_RETURN_IF_ERROR(load_step(job.folder, arguments.step).status());
  }
  if (arguments.json) print_json({{"folder", job.folder.name}, {"ok", ok}, {"steps", steps}});
  return ok ? 0 : kExitDamaged;
}

}  // namespace

void add_ckpt_scrub(CLI::App& group, Invocation& invocation) {
  CLI::App* app = group.add_subcommand("scrub", "Read steps again, and mend what is damaged");
  const auto arguments = std::make_shared<Arguments>();
  app->add_option("FOLDER", arguments->folder, "a checkpoint folder")->required();
  app->add_option("--step", arguments->step, "this one; default: every committed step")
      ->type_name("N");
  app->add_option("--from", arguments->from, "a copy, to mend from")->type_name("FOLDER");
  app->add_option("--bandwidth", arguments->bandwidth, "bytes a second; default: no limit")
      ->type_name("SIZE");
  app->add_flag("--json", arguments->json, "print the result as one line of JSON");
  app->footer(kFooter);
  app->callback([&invocation, arguments] {
    const Result<int> code = scrub(*arguments);
    invocation.exit_code = code.ok() ? *code : fail_ckpt(code.status());
  });
}

}  // namespace convoy::cli
