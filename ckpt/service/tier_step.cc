#include "ckpt/service/tier_step.h"

#include <convoy/base/fault.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <utility>

namespace convoy::ckpt {

Status commit_step(Catalog& catalog, Commit head, const Part& part, const std::string& point) {
  fault::die_at(point + ".part.kill");
  CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog.write_part(part));
  CommitBuilder builder(std::move(head));
  CONVOY_RETURN_IF_ERROR(builder.add(ref, part));
  fault::die_at(point + ".commit.kill");
  return catalog.commit(std::move(builder).finish());
}

void collect_old_steps(Catalog& catalog, const TierRules& rules, std::set<uint64_t> pins,
                       uint64_t step, const std::string& place, const std::string& point) {
  fault::die_at(point + ".collect.kill");
  KeepPolicy policy;
  policy.newest = std::max<uint64_t>(1, rules.keep_newest);
  policy.every = rules.keep_every;
  policy.pins = std::move(pins);
  const Result<Collected> collected = catalog.collect(policy);
  if (collected.ok()) return;
  CONVOY_LOG(Warn) << "old checkpoints in " << place << " were not removed after step " << step
                   << ": " << collected.status().message();
}

void give_back(Catalog& catalog, const std::string& place) {
  const Status released = catalog.release();
  if (released.ok()) return;
  CONVOY_LOG(Warn) << "the checkpoint folder " << place
                   << " was not given back: " << released.message();
}

}  // namespace convoy::ckpt
