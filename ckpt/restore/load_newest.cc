// From the newest committed step to older ones, until one is whole.
#include <convoy/base/log.h>
#include <convoy/ckpt/restore.h>

namespace convoy::ckpt {
namespace {

Status load_one(const Commit& commit, const OpenStep& open, const State& wanted,
                const LoadOptions& options, LoadReport& report) {
  CONVOY_ASSIGN_OR_RETURN(const std::vector<std::unique_ptr<StepSource>> sources, open(commit));
  if (sources.empty() || sources[0] == nullptr) {
    return {Code::kInvalidArgument, "no source was opened for step " + std::to_string(commit.step)};
  }
  LoadOptions with = options;
  with.other_sources.clear();
  for (size_t i = 1; i < sources.size(); ++i) with.other_sources.push_back(sources[i].get());
  with.other_sources.insert(with.other_sources.end(), options.other_sources.begin(),
                            options.other_sources.end());
  return load(*sources[0], wanted, with, &report);
}

}  // namespace

Result<Commit> load_newest(Catalog& catalog, const OpenStep& open, const State& wanted,
                           const LoadOptions& options, LoadReport* report) {
  LoadReport own;
  LoadReport& out = report != nullptr ? *report : own;
  out = LoadReport();
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, catalog.steps());
  std::string tried;
  for (const StepInfo& info : steps) {
    // Written by a process that had lost the folder: it never was a step.
    if (info.status.code() == Code::kAborted) continue;
    Status status = info.status;
    if (status.ok()) {
      const Result<Commit> commit = catalog.load_commit(info.key);
      status = commit.status();
      if (status.ok()) status = load_one(*commit, open, wanted, options, out);
      if (status.ok()) {
        if (!out.passed_over.empty()) {
          CONVOY_LOG(Warn) << "loaded step " << commit->step << " in place of "
                           << out.passed_over.size() << " newer one(s)";
        }
        return commit;
      }
    }
    if (status.code() != Code::kDataLoss) return status;
    CONVOY_LOG(Warn) << "step " << info.key.step
                     << " can't be loaded, an older one is tried: " << status.message();
    out.passed_over.emplace_back(info.key, status);
    tried += "\n  step " + std::to_string(info.key.step) + ": " + status.message();
  }
  if (tried.empty()) {
    return Status(Code::kNotFound, "there is no committed step to load.");
  }
  return Status(Code::kDataLoss, "none of the committed steps can be loaded:" + tried);
}

}  // namespace convoy::ckpt
