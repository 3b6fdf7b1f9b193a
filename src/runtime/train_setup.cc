// From a command line's options to a trainer's.
#include "src/runtime/train_setup.h"

#include <algorithm>

namespace convoy::runtime {
namespace {

at::ScalarType scalar_type(const std::string& name) {
  if (name == "float64") return at::kDouble;
  return name == "bfloat16" ? at::kBFloat16 : at::kFloat;
}

model::Recompute recompute_of(const std::string& name) {
  if (name == "full") return model::Recompute::kFull;
  return name == "selective" ? model::Recompute::kSelective : model::Recompute::kNone;
}

// As many micro-batches as the pipeline has stages, or the nearest number below that divides a
// rank's sequences: more of them would only make the pieces smaller.
int default_microbatches(int64_t rows, int pp) {
  int count = static_cast<int>(std::clamp<int64_t>(rows, 1, pp));
  while (rows % count != 0) --count;
  return count;
}

}  // namespace

ModelPreset preset_of(const TrainOptions& options) {
  ModelPreset preset = model_preset(options.config).value();
  if (options.batch > 0) preset.batch = options.batch;
  if (options.sequence > 0) preset.sequence = options.sequence;
  if (options.steps > 0) preset.steps = options.steps;
  if (options.lr > 0) preset.lr = options.lr;
  return preset;
}

TrainerOptions trainer_options(const TrainOptions& options, const ModelPreset& preset,
                               int64_t vocabulary, const Runtime& runtime) {
  TrainerOptions out;
  const Mesh& mesh = runtime.full_mesh();
  out.model = {.layers = preset.layers,
               .hidden = preset.hidden,
               .heads = preset.heads,
               .kv_heads = preset.kv_heads,
               .ffn = preset.ffn,
               .vocab = vocabulary,
               .seq = preset.sequence,
               .dropout = options.dropout};
  out.llama.dtype = scalar_type(options.dtype);
  out.llama.device = runtime.device();
  out.llama.seed = options.seed;
  out.llama.sequence_parallel = options.sequence_parallel;
  out.llama.recompute = recompute_of(options.recompute);
  out.schedule = options.schedule;
  out.chunks = options.schedule == "interleaved" ? options.chunks : 1;
  out.batch = preset.batch;
  out.microbatches = options.microbatches > 0
                         ? options.microbatches
                         : default_microbatches(preset.batch / mesh.size("dp"), mesh.size("pp"));
  out.adamw.weight_decay = options.weight_decay;
  out.lr = {.peak = preset.lr,
            .floor = preset.lr / 10,
            .warmup_steps = std::min<int64_t>(preset.steps / 10, 50),
            .total_steps = preset.steps};
  out.clip = options.clip;
  out.zero = options.zero;
  return out;
}

}  // namespace convoy::runtime
