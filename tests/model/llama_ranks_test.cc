// The Llama model over 2, 3 and 4 tensor-parallel processes against the same model on one rank
// (which llama_test holds against a plain one), in float64 to 1e-10: initial values, loss, every
// parameter's whole gradient and every copy of its replicated parts. Sizes are awkward: 6 heads and
// 2 shared kv heads over 4 ranks, vocabulary 29, ffn 37, sequence 19. Sequence parallel, overlap,
// recompute and dropout on and off. Does not check data or pipeline parallelism.
#include "tests/model/small_llama.h"
#include "tests/parallel/tensor/fork_ranks.h"

#include <catch2/catch.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <stdexcept>

namespace convoy::model {
namespace {

constexpr double kBound = 1e-10;

void expect_near(const at::Tensor& got, const at::Tensor& want, const std::string& what) {
  const double error = difference(got, want);
  if (!(error < kBound))
    throw std::runtime_error(what + " differs by " + std::to_string(error) + " of its maximum");
}

// Every part of the parameter that this rank holds equals the whole one's.
void expect_shard(const parallel::Parameter& p, const at::Tensor& local, const at::Tensor& full,
                  const std::string& what) {
  for (const parallel::HeldRun& run : p.runs)
    expect_near(local.narrow(p.shard_dim, run.local, run.size),
                full.narrow(p.shard_dim, run.global, run.size), what);
}

void compare(const LlamaConfig& config, const LlamaOptions& options, const comm::Group& group,
             const std::string& what) {
  MicroBatch batch = make_batch(config, 3);
  batch.loss_scale = 0.02;
  batch.step = 5;
  batch.first_sample = 6;
  batch.sample_stride = 2;
  const Llama whole(config, options, comm::Group());
  const Llama sharded(config, options, group);
  const at::Tensor want = whole.forward({}, batch);
  torch::autograd::backward({want}, {});
  const at::Tensor got = sharded.forward({}, batch);
  torch::autograd::backward({got}, {});
  expect_near(got.detach(), want.detach(), what + ": loss");

  parallel::sum_partial_gradients(sharded.parameters(), group);
  double squares = 0;
  double want_squares = 0;
  for (size_t i = 0; i < whole.parameters().size(); ++i) {
    const auto& w = whole.parameters()[i];
    const auto& s = sharded.parameters()[i];
    const std::string name = what + ": " + s->name;
    expect_shard(*s, s->data(), w->data(), name + " initial value");
    expect_near(parallel::gather_full(*s, s->data(), group), w->data(), name + " gathered");
    expect_shard(*s, s->grad, w->grad, name + " gradient");
    squares += parallel::owned_square_sum(*s);
    want_squares += parallel::owned_square_sum(*w);
  }
  const at::Tensor sum = at::tensor({squares}, at::kDouble);
  group.all_reduce_(sum);
  expect_near(sum, at::tensor({want_squares}, at::kDouble), what + ": gradient norm");

  at::NoGradGuard no_grad;
  expect_near(sharded.logits({}, batch), whole.logits({}, batch), what + ": logits");
}

void compare_modes(const comm::Group& group) {
  LlamaOptions options;
  options.dtype = at::kDouble;
  for (const bool sequence : {false, true})
    for (const double dropout : {0.0, 0.2})
      for (const auto recompute : {Recompute::kNone, Recompute::kSelective, Recompute::kFull}) {
        LlamaConfig config = small_config(2);
        config.dropout = dropout;
        config.tied = dropout == 0;
        options.sequence_parallel = sequence;
        options.recompute = recompute;
        options.overlap = dropout > 0;
        compare(config, options, group,
                "tp " + std::to_string(group.size()) + (sequence ? " sp" : "") + " dropout " +
                    std::to_string(dropout) + " recompute " +
                    std::to_string(static_cast<int>(recompute)));
      }
}

}  // namespace

TEST_CASE("llama over tensor-parallel ranks equals one rank") {
  const int ranks = GENERATE(2, 3, 4);
  CAPTURE(ranks);
  CHECK(parallel::fork_ranks(ranks, compare_modes) == 0);
}

TEST_CASE("even sizes, where collectives need no size lists") {
  const auto body = [](const comm::Group& group) {
    LlamaConfig config = small_config(2);
    config.heads = 4;
    config.kv_heads = 4;
    config.vocab = 32;
    config.ffn = 32;
    config.seq = 16;
    LlamaOptions options;
    options.dtype = at::kDouble;
    options.sequence_parallel = true;
    compare(config, options, group, "even");
  };
  CHECK(parallel::fork_ranks(4, body) == 0);
}

}  // namespace convoy::model
