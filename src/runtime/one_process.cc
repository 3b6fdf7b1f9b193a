#include "src/runtime/one_process.h"

#include "src/runtime/samples.h"
#include <convoy/base/clock.h>
#include <convoy/base/units.h>
#include <convoy/comm/mesh_groups.h>

#include <ATen/Parallel.h>

#include <algorithm>
#include <thread>
#include <vector>

namespace convoy::runtime {
namespace {

// At most so many steps, of which the first isn't counted, and no more once they have taken so
// long.
constexpr int kBaselineSteps = 8;
constexpr double kBaselineSeconds = 3;

// In tokens/s of the median step.
double rate_with(int threads, const TrainOptions& options, const ModelPreset& preset,
                 const TrainerOptions& trainer_options) {
  at::set_num_threads(threads);
  TrainerOptions alone = trainer_options;
  alone.llama.sequence_parallel = false;
  alone.schedule = "1f1b";
  alone.chunks = alone.microbatches = 1;
  alone.rows = 0;
  comm::MeshGroups groups(Mesh(), 0, {});
  Trainer trainer(alone, groups);
  Samples samples = Samples::open(options, preset.sequence, preset.batch).value();
  std::vector<double> took;
  const TimePoint start = Clock::system().now();
  for (int i = 0; i < kBaselineSteps && (i < 2 || seconds_since(start) < kBaselineSeconds); ++i) {
    const at::Tensor batch = samples.next(preset.batch, 0, preset.batch);
    const TimePoint begin = Clock::system().now();
    trainer.step(batch);
    if (i > 0) took.push_back(seconds_since(begin));
  }
  std::nth_element(took.begin(), took.begin() + static_cast<std::ptrdiff_t>(took.size() / 2),
                   took.end());
  return static_cast<double>(preset.batch * preset.sequence) / took[took.size() / 2];
}

}  // namespace

double one_process_rate(const TrainOptions& options, const ModelPreset& preset,
                        const TrainerOptions& trainer) {
  const int threads = at::get_num_threads();
  const int cores = static_cast<int>(std::max(1U, std::thread::hardware_concurrency()));
  double rate = rate_with(cores, options, preset, trainer);
  if (cores > 1) rate = std::max(rate, rate_with(1, options, preset, trainer));
  at::set_num_threads(threads);
  return rate;
}

}  // namespace convoy::runtime
