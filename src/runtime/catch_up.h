#pragma once

#include <convoy/base/status.h>
#include <convoy/dataset/sampler.h>
#include <convoy/runtime/runtime.h>
#include <convoy/runtime/trainer.h>

#include <cstdint>
#include <functional>
#include <string>

namespace convoy::runtime {

// How far a rank's training has come; what ranks of a new generation compare.
struct Standing {
  bool is_valid = false;        // false: a newcomer, who knows nothing
  bool is_sound = true;         // false: its parameters are not to be trusted, or of another part
  bool is_resized = false;      // its checkpoints are for another mesh
  int64_t trusted = INT64_MAX;  // newer states than after this step may be wrong everywhere
  int64_t steps = 0;            // done
  int64_t after = 0;            // the newest step whose validation and save are done, too
  int64_t total = 0;            // steps of the run
  double elapsed = 0;           // seconds of it
  StepResult last;              // of step `steps`
  dataset::SamplerState position;  // of the data, behind that step
};

struct CaughtUp {
  // Every part of the model was there, and this rank's trainer has the state of `now`. False: some
  // part was on failed ranks only; all trainers have to go back to what was saved.
  bool is_whole = false;
  bool is_resized = false;  // that of some rank
  Standing now;             // the same on all ranks
  std::string source;       // of this rank's state, for people
};

// Makes the ranks of a new generation agree: what one of them has completed all have afterwards.
// Whoever lacks only the update makes it, from the norm that the others know; whoever lacks more
// takes the state of a data-parallel replica. (Who has done step n has proof that all ranks had the
// gradients of step n, so one of the two is always possible unless a part of the model has died
// with all its replicas.) Whose parameters are not sound does so, too. `before_update` is called
// before parameters change. Collective over the world.
CaughtUp catch_up(Runtime& runtime, Trainer& trainer, const Standing& mine,
                  const std::function<void()>& before_update);

}  // namespace convoy::runtime
