// A two-layer perceptron with tensor-parallel layers, trained with data parallelism, written on
// mesh and layers alone: no model or trainer of Convoy's. It learns y = sin(x0) + x1 * x2.
//
//   ./mesh_and_layers                                         on one rank
//   convoy run -n 4 --mesh tp=2,dp=2 -- ./mesh_and_layers     on four: the same numbers
#include <convoy/parallel/data/adamw.h>
#include <convoy/parallel/tensor/linear.h>
#include <convoy/runtime/describe.h>
#include <convoy/runtime/program.h>
#include <convoy/runtime/runtime.h>

#include <ATen/Functions.h>

#include <cstdio>

using namespace convoy;

namespace {

constexpr int64_t kInputs = 4, kWidth = 64, kSamples = 128, kSteps = 300;

// [samples, 1, features], the same on every rank; a rank then takes its share of the samples. The
// last feature is 1, in place of a bias.
at::Tensor inputs(int64_t step) {
  at::manual_seed(static_cast<uint64_t>(step));
  at::Tensor x = at::rand({kSamples, 1, kInputs}) * 4 - 2;
  x.select(2, kInputs - 1).fill_(1);
  return x;
}

at::Tensor wanted(const at::Tensor& x) {
  return (x.select(2, 0).sin() + x.select(2, 1) * x.select(2, 2)).unsqueeze(2);
}

Status learn() {
  // Who am I, and with whom do I share the work?
  CONVOY_ASSIGN_OR_RETURN(const auto worker, runtime::Runtime::start());
  const comm::Group tp = worker->group("tp"), dp = worker->group("dp");
  parallel::TensorRegion region;
  region.group = tp;

  // The first layer's outputs and the second layer's inputs are cut over the tensor group. Initial
  // values depend on the name alone, not on the mesh.
  const auto first =
      parallel::make_parameter(parallel::column_weight("first", kWidth, kInputs, tp), at::kFloat);
  const auto second =
      parallel::make_parameter(parallel::row_weight("second", 1, kWidth, tp), at::kFloat);
  parallel::init_normal(*first, 1, 0.6);
  parallel::init_normal(*second, 1, 0.1);

  // Gradients are summed over the data-parallel group while the backward pass runs.
  data::FlatBuckets buckets({runtime::describe(first), runtime::describe(second)},
                            {.dp = dp, .world = worker->groups().world(), .pp = {}}, {});
  data::AdamW optimizer(buckets, {.weight_decay = 0});

  const int64_t rows = kSamples / dp.size();
  for (int64_t step = 1; step <= kSteps; ++step) {
    const at::Tensor x = inputs(step).narrow(0, dp.rank() * rows, rows).contiguous();
    buckets.begin_step();
    buckets.arm(0);
    const at::Tensor hidden = parallel::column_parallel_linear(x, first, {}, region).tanh();
    const at::Tensor y = parallel::row_parallel_linear(hidden, second, {}, region);
    const at::Tensor loss = (y - wanted(x)).pow(2).sum() / kSamples;
    loss.backward();
    buckets.finish();
    optimizer.step(0.02);
    if (step % 50 != 0) continue;
    const at::Tensor total = loss.detach().clone();
    dp.all_reduce_(total);
    if (worker->rank() == 0) std::printf("step %3ld  loss %.5f\n", step, total.item<double>());
  }
  return ok_status();
}

}  // namespace

int main() {
  return runtime::run_program(learn);
}
