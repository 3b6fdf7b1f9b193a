#pragma once

#include <convoy/runtime/runtime.h>
#include <convoy/runtime/train_options.h>
#include <convoy/runtime/trainer.h>

namespace convoy::runtime {

// The preset that --config names, with what other options change of it. The name is known.
ModelPreset preset_of(const TrainOptions& options);

// What the options mean for a trainer on the runtime's mesh; not checked. `vocabulary`: tokens.
TrainerOptions trainer_options(const TrainOptions& options, const ModelPreset& preset,
                               int64_t vocabulary, const Runtime& runtime);

}  // namespace convoy::runtime
