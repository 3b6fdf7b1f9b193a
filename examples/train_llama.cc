// Trains a Llama-family language model on a token file, over the tensor × pipeline × data ×
// sequence parallel groups of the job: `convoy run -n 8 --mesh tp=2,pp=2,dp=2 -- train_llama --data
// FILE`. The same program runs alone, on 64 ranks, and under torchrun, mpirun or srun. `--help`
// lists its options; exit codes are those of convoy/runtime/program.h.
#include <convoy/runtime/program.h>
#include <convoy/runtime/runtime.h>
#include <convoy/runtime/train.h>
#include <convoy/runtime/train_options.h>

#include <cstdio>

int main(int argc, char** argv) {
  using namespace convoy;
  return runtime::run_program([&]() -> Status {
    std::string help;
    CONVOY_ASSIGN_OR_RETURN(const runtime::TrainOptions options,
                            runtime::parse_train_options(argc, argv, &help));
    if (!help.empty()) {
      std::fputs(help.c_str(), stdout);
      return ok_status();
    }
    CONVOY_ASSIGN_OR_RETURN(
        const auto worker,
        runtime::Runtime::start({.mesh = options.mesh, .device = options.device, .recover = true}));
    return runtime::train(*worker, options);
  });
}
