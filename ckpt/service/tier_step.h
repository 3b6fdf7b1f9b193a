#pragma once

#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>

#include <cstdint>
#include <set>
#include <string>

// How each tier ends a step, and its life in a folder. Fault points "POINT.part.kill",
// "POINT.commit.kill" and "POINT.collect.kill": the process dies before that.
namespace convoy::ckpt {

// How a tier writes, and what stays there: a generation of workers may come with others.
struct TierRules {
  uint64_t keep_newest = 2;  // KeepPolicy
  uint64_t keep_every = 0;
  uint64_t bandwidth = 0;   // bytes/s; 0: no limit
  bool incremental = true;  // chunks that have not changed are referred to
  bool take_over = false;   // the folder, whoever has it
  int compress = 0;         // zstd level; 0: none
};

// The part, then the commit record: from then on the step exists. The data is durable already.
// `head` has all but parts, tensors and steps. Needs the claim.
Status commit_step(Catalog& catalog, Commit head, const Part& part, const std::string& point);

// Removes old steps. What fails here costs room only, and the next step tries again: a warning.
void collect_old_steps(Catalog& catalog, const TierRules& rules, std::set<uint64_t> pins,
                       uint64_t step, const std::string& place, const std::string& point);

// Says that nobody writes there any more, so that tools know; a failure is a warning.
void give_back(Catalog& catalog, const std::string& place);

}  // namespace convoy::ckpt
