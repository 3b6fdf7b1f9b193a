// load(): plan, then read.
#include "ckpt/restore/chunk_reader.h"
#include <convoy/ckpt/restore.h>

#include <utility>

namespace convoy::ckpt {

Status load(StepSource& source, const State& wanted, const LoadOptions& options,
            LoadReport* report) {
  LoadReport own;
  LoadReport& out = report != nullptr ? *report : own;
  auto passed_over = std::move(out.passed_over);
  out = LoadReport();
  out.passed_over = std::move(passed_over);
  out.step = source.commit().step;
  PartHomes homes(source, options.other_sources);
  CONVOY_ASSIGN_OR_RETURN(const LoadPlan plan, plan_load(homes, wanted, options, out));
  Scatter scatter(plan);
  CONVOY_ASSIGN_OR_RETURN(const auto reader,
                          ChunkReader::create(homes, plan, options, out, scatter));
  std::vector<ChunkJob> jobs(plan.chunks.size());
  for (uint32_t i = 0; i < jobs.size(); ++i) jobs[i].chunk = i;
  return reader->run(jobs);
}

}  // namespace convoy::ckpt
