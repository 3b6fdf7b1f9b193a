// train.*: one training run of the benchmark's model through Convoy's runtime, on the mesh that
// `convoy run` gives.
//
//   train_bench SIZE STEPS MICROBATCHES WEIGHTS_DIR
//
// Weights, data, optimizer and the way steps are timed are those of peers/torch_parallel.py, so
// that losses must agree. Prints one JSON line on rank 0: tokens/s of the median step, and the last
// step's loss.
#include <convoy/parallel/tensor/parameter.h>
#include <convoy/runtime/program.h>
#include <convoy/runtime/runtime.h>
#include <convoy/runtime/trainer.h>

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/ops/from_blob.h>
#include <ATen/ops/randint.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <fstream>
#include <string>

namespace convoy {
namespace {

constexpr int kWarmUpSteps = 2;
constexpr int64_t kVocabulary = 256;

struct Size {
  model::LlamaConfig model;
  int64_t batch;
};

Size size_named(const std::string& name) {
  Size size{{}, 16};
  size.model.vocab = kVocabulary;
  size.model.tied = false;
  if (name == "medium") {
    size.model.hidden = 384;
    size.model.layers = 8;
    size.model.ffn = 1024;
    size.model.seq = 256;
    size.batch = 8;
  }
  return size;
}

// The full parameter as the exporter wrote it: raw float32 in row-major order.
at::Tensor read_weights(const std::string& folder, const parallel::Parameter& parameter) {
  const at::Tensor full = at::empty(parameter.full_shape(), at::kFloat);
  std::ifstream file(folder + "/" + parameter.name + ".f32", std::ios::binary);
  file.read(static_cast<char*>(full.mutable_data_ptr()),
            static_cast<std::streamsize>(full.nbytes()));
  TORCH_CHECK(file.good(), "can't read the weights of ", parameter.name, " in ", folder);
  return full;
}

void load_weights(runtime::Trainer& trainer, const std::string& folder) {
  for (const auto& chunk : trainer.chunks()) {
    for (const auto& parameter : chunk->parameters()) {
      parallel::load_full(*parameter, read_weights(folder, *parameter));
    }
  }
}

// The batch of one step, as torch_parallel.py draws it; this data-parallel rank's rows.
at::Tensor batch_of(const Size& size, int step, const comm::Group& dp) {
  at::Generator generator = at::make_generator<at::CPUGeneratorImpl>(static_cast<uint64_t>(step));
  const at::Tensor all =
      at::randint(0, kVocabulary, {size.batch, size.model.seq + 1}, generator, at::kLong);
  const int64_t rows = size.batch / dp.size();
  return all.narrow(0, dp.rank() * rows, rows).contiguous();
}

Status run(int argc, char** argv) {
  if (argc != 5) {
    return {Code::kInvalidArgument,
            "usage: train_bench small|medium STEPS MICROBATCHES WEIGHTS_DIR"};
  }
  const Size size = size_named(argv[1]);
  CONVOY_ASSIGN_OR_RETURN(const auto runtime, runtime::Runtime::start());
  runtime::TrainerOptions options;
  options.model = size.model;
  options.llama.sequence_parallel = runtime->mesh().size("tp") > 1;
  options.microbatches = std::stoi(argv[3]);
  options.batch = size.batch;
  options.adamw = {0.9, 0.999, 1e-8, 0.01};
  options.lr.peak = 3e-4;
  CONVOY_RETURN_IF_ERROR(runtime::Trainer::check(options, runtime->mesh()));
  runtime::Trainer trainer(options, runtime->groups());
  load_weights(trainer, argv[4]);

  const comm::Group dp = runtime->group("dp");
  std::vector<std::string> dims = runtime->mesh().names();
  const comm::Group world =
      runtime->groups().group(std::vector<std::string_view>(dims.begin(), dims.end()));
  std::vector<double> seconds;
  double loss = 0;
  for (int step = 0; step < std::stoi(argv[2]) + kWarmUpSteps; ++step) {
    const at::Tensor batch = batch_of(size, step, dp);
    world.barrier();
    const auto begin = std::chrono::steady_clock::now();
    loss = trainer.step(batch).loss;
    world.barrier();
    const std::chrono::duration<double> spent = std::chrono::steady_clock::now() - begin;
    if (step >= kWarmUpSteps) seconds.push_back(spent.count());
  }
  std::sort(seconds.begin(), seconds.end());
  const double median = seconds[seconds.size() / 2];
  if (runtime->rank() == 0) {
    std::printf("{\"tokens_per_s\": %.1f, \"loss\": %.5f}\n",
                static_cast<double>(size.batch * size.model.seq) / median, loss);
  }
  return ok_status();
}

}  // namespace
}  // namespace convoy

int main(int argc, char** argv) {
  return convoy::runtime::run_program([&] { return convoy::run(argc, argv); });
}
