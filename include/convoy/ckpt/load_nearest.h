#pragma once

#include <convoy/ckpt/agent.h>
#include <convoy/ckpt/load_together.h>
#include <convoy/ckpt/tier.h>

#include <cstdint>
#include <optional>
#include <string>

namespace convoy::ckpt {

// The first failure of any rank, which it names, on all of them; ok if there is none. Collective.
Status agree(Exchange& exchange, const Status& mine);

// Where a step may be found. Empty: not there.
struct LoadPlaces {
  std::string agent;        // the node's, whose memory may hold a step
  std::string folder;       // may not exist yet
  std::string remote = {};  // URI of the object store: the last resort
  // Of a job on several nodes, whose agents' memory is looked at in place of the one agent's
  // (ClientOptions::coordinator); all ranks' clients must have connected.
  std::string coordinator = {};
  uint64_t generation = 0;  // of the workers that load
  ClusterListen tls = {};   // its PEM files
  // Newer steps are not looked at, wherever they are. The same on all ranks.
  uint64_t step_max = UINT64_MAX;
};

// What suits loads from there: reads of an object store wait for its latency, so it gets more
// threads, and memory for them.
LoadOptions load_options_for(Tier tier, LoadOptions options);

struct NearestStep {
  uint64_t step = 0;
  Tier tier = Tier::kStaged;  // where it came from
  uint32_t world_size = 0;    // of the ranks that saved it
  std::string mesh;           // theirs, for people; empty if it came from memory
  LoadReport report;          // this rank's
};

// Loads, on all ranks of `exchange` together, the newest step that some place has whole: from the
// memory of the agent if it has all ranks' snapshots and nothing newer is committed, else from the
// folder, else from the object store, which also gives what is damaged in the folder. What turns
// out to be damaged is passed over for the next older one, with a warning. Rank 0's view of the
// folders counts; an object store that can't be reached is an error only if no other place has a
// step. nullopt: no place has any step. Errors: those of load_together(), the same on all ranks;
// kDataLoss names all steps if none could be loaded.
Result<std::optional<NearestStep>> load_nearest(const LoadPlaces& places, const State& wanted,
                                                Exchange& exchange,
                                                const LoadOptions& options = {});

}  // namespace convoy::ckpt
