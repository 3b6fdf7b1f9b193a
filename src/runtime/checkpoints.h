#pragma once

#include "src/runtime/samples.h"
#include <convoy/ckpt/checkpointer.h>
#include <convoy/ckpt/group_exchange.h>
#include <convoy/runtime/runtime.h>
#include <convoy/runtime/train_options.h>
#include <convoy/runtime/trainer.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

namespace convoy::runtime {

// The checkpoints of a training run: what it resumes from, and what it leaves behind. Without
// --checkpoint or --checkpoint-remote all of it does nothing.
class Checkpoints {
 public:
  // Collective, unless `alone`: into a run that has begun, whose other ranks have theirs.
  // kFailedPrecondition if another job has the folder or the store; kUnavailable without an agent.
  static Result<Checkpoints> open(const TrainOptions& options, Runtime& runtime, bool alone);

  // Goes on from the newest step that memory, folder or store have; the number of steps that are
  // done then, 0 if there are none. Collective. kMismatch: made from other data or with another
  // seed.
  Result<int64_t> resume(Trainer& trainer, Samples& samples, int64_t step_max = INT64_MAX);
  // How the run began, for people: "resumed from step 120 of ...". Empty: from the start.
  const std::string& story() const { return story_; }

  // After a step: saves if it is one of --checkpoint-every, or the last. Never fails: what goes
  // wrong is logged. Returns the seconds that training stood still, 0 if there was nothing to do.
  double after_step(int64_t step, bool is_last, Trainer& trainer, const Samples& samples);
  // All ranks alike: saves the step, if that was not done, and blocks until it is in the memory of
  // all machines, or `durably` in folder or store.
  Status save_now(int64_t step, bool durably, Trainer& trainer, const Samples& samples);
  // Before an update of what is being saved; seconds that it took.
  double before_update();
  // Waits until the last step is durable in the folder, or the store if there is no folder; its
  // failure is the run's. What else goes to the store the agent sees to.
  Status finish();

 private:
  ckpt::TensorState add_position(ckpt::TensorState state) const;
  void begin_save(int64_t step, bool everywhere, Trainer& trainer, const Samples& samples);
  Status wait_durable();
  void report(int64_t step, const Result<ckpt::SaveOutcome>& outcome);

  std::unique_ptr<ckpt::Checkpointer> checkpointer_;  // null: nothing is saved
  std::unique_ptr<ckpt::GroupExchange> exchange_;
  ckpt::LoadPlaces places_;
  int64_t every_ = 0;
  int64_t last_ = 0;      // step that was given to save
  bool copying_ = false;  // the save of last_ goes on
  // The next step, whatever --checkpoint-every says: training has gone back to before wrong values.
  bool saves_at_once_ = false;
  int64_t left_out_ = 0;  // saves in a row, the disk being full or slow
  at::Tensor position_;   // int64 [4] on the CPU: samples, seed, epoch, offset
  std::string story_;
  int rank_ = 0;
};

}  // namespace convoy::runtime
