// The executor on one pipeline rank: several chunks hand over locally, gradients equal plain
// autograd's, errors name stage and micro-batch; on two ranks, a stage that does not come. Stages
// on several ranks, with messages between them, are covered by the truth sweep for every schedule.
#include "tests/parallel/tensor/fork_ranks.h"
#include <convoy/parallel/pipeline/executor.h>

#include <ATen/Functions.h>
#include <catch2/catch.hpp>

using namespace convoy;
using pipeline::Executor;
using pipeline::HiddenState;

namespace {

struct Toy {
  std::vector<at::Tensor> weights;
  std::vector<at::Tensor> inputs;

  Toy() {
    at::manual_seed(5);
    for (int i = 0; i < 3; ++i) {
      weights.push_back(at::randn({4, 4}, at::kDouble).requires_grad_(true));
    }
    for (int i = 0; i < 5; ++i) inputs.push_back(at::randn({2, 4}, at::kDouble));
  }

  std::vector<pipeline::StageFunction> stages() {
    std::vector<pipeline::StageFunction> out;
    for (int c = 0; c < 3; ++c) {
      out.push_back([this, c](const at::Tensor& hidden, int m) {
        const at::Tensor in = c == 0 ? inputs[static_cast<size_t>(m)] : hidden;
        const at::Tensor y = in.matmul(weights[static_cast<size_t>(c)]).tanh();
        return c == 2 ? y.pow(2).sum() : y;
      });
    }
    return out;
  }
};

}  // namespace

// First, before this process has threads: it forks.
TEST_CASE("A stage that does not come is named, with what was awaited") {
  const int failed = parallel::fork_ranks(2, [](const comm::Group& pp) {
    if (pp.rank() == 1) {
      pp.process_group()->setTimeout(std::chrono::milliseconds(300));
      Executor executor(pp, {[](const at::Tensor& hidden, int) { return hidden.sum(); }});
      std::string text;
      try {
        executor.forward_only(1, {{2, 4}, at::TensorOptions(at::kFloat)});
      } catch (const c10::Error& error) {
        text = error.what_without_backtrace();
      }
      const bool named = text.find("deadline exceeded: rank 0 has not sent") != std::string::npos;
      const bool located = text.find(
                               "stage 1 of 2, forward of micro-batch 0, waiting for the "
                               "hidden state of stage 0") != std::string::npos;
      TORCH_CHECK(named && located, text);
      pp.process_group()->setTimeout(std::chrono::seconds(60));
    }
    // Rank 0 comes only to the barrier behind this.
  });
  CHECK(failed == 0);
}

TEST_CASE("Chunks of one rank give autograd's gradients") {
  Toy plain;
  at::Tensor total = at::zeros({}, at::kDouble);
  for (int m = 0; m < 5; ++m) {
    at::Tensor h;
    for (auto& stage : plain.stages()) h = stage(h, m);
    total = total + h;
  }
  total.backward();

  Toy toy;
  Executor executor({}, toy.stages());
  const auto schedule = schedule::make_schedule("interleaved", 1, 5, 3);
  REQUIRE(schedule.ok());
  std::vector<int> last_backwards;
  const HiddenState hidden{{2, 4}, at::TensorOptions(at::kDouble)};
  const auto losses =
      executor.run(*schedule, hidden, [&](int chunk) { last_backwards.push_back(chunk); });
  REQUIRE(losses.size() == 5);
  at::Tensor sum = at::zeros({}, at::kDouble);
  for (const at::Tensor& loss : losses) sum = sum + loss;
  CHECK(at::allclose(sum, total.detach(), 1e-12));
  for (size_t i = 0; i < 3; ++i) {
    CHECK(at::allclose(toy.weights[i].grad(), plain.weights[i].grad(), 1e-12));
  }
  CHECK(last_backwards == std::vector<int>{2, 1, 0});

  const auto again = executor.forward_only(5, hidden);
  REQUIRE(again.size() == 5);
  CHECK(at::equal(again[3], losses[3]));
  CHECK_FALSE(again[3].requires_grad());
}

TEST_CASE("A stage's error names stage and micro-batch") {
  Executor executor({}, {[](const at::Tensor&, int) {
                           return at::zeros({2, 3});
                         },
                         [](const at::Tensor& hidden, int) { return hidden.sum(); }});
  const HiddenState hidden{{2, 4}, at::TensorOptions(at::kFloat)};
  try {
    executor.forward_only(2, hidden);
    FAIL("no error");
  } catch (const c10::Error& error) {
    const std::string text = error.what_without_backtrace();
    CAPTURE(text);
    CHECK(text.find("stage 0 of 2, forward of micro-batch 0") != std::string::npos);
    CHECK(text.find("[2, 4]") != std::string::npos);
  }
}
