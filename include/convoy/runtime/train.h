#pragma once

#include <convoy/base/status.h>
#include <convoy/runtime/runtime.h>
#include <convoy/runtime/train_options.h>

namespace convoy::runtime {

// A whole training run on this worker's job: reads the token files, measures the rate of one
// process, trains with live progress, validates, writes a sample and the run folder (config.json,
// metrics.jsonl, loss.svg). Collective over the job; rank 0 speaks and writes. kInvalidArgument for
// options that don't fit the mesh, model or data; otherwise the errors of the parts.
Status train(Runtime& runtime, const TrainOptions& options);

}  // namespace convoy::runtime
