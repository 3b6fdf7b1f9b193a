#pragma once

#include <convoy/runtime/train.h>
#include <convoy/runtime/trainer.h>

namespace convoy::runtime {

// How fast this process trains the same model on the same batches alone, in tokens/s. The better of
// all cores and one: on a busy machine threads that wait for each other can lose. Takes seconds.
double one_process_rate(const TrainOptions& options, const ModelPreset& preset,
                        const TrainerOptions& trainer);

}  // namespace convoy::runtime
