// Llama on one rank against a separately written plain model (reference_llama.cc): loss and every
// parameter's gradient in float64 to 1e-10, for tied and untied embeddings, grouped heads, ignored
// targets, all recompute modes, and cut into pipeline stages; float32 and bfloat16 loosely.
// Does not check more than one rank: see llama_ranks_test.
#include "tests/model/reference_llama.h"
#include "tests/model/small_llama.h"

#include <catch2/catch.hpp>
#include <torch/csrc/autograd/autograd.h>

namespace convoy::model {
namespace {

const comm::Group kAlone;

reference::Tensors weights_of(const Llama& model) {
  reference::Tensors weights;
  for (const auto& p : model.parameters()) weights[p->name] = p->data();
  return weights;
}

void compare(const Llama& model, const at::Tensor& loss, const reference::Result& truth,
             double bound) {
  CHECK(difference(loss.detach(), truth.loss.detach()) < bound);
  for (const auto& p : model.parameters()) {
    INFO(p->name);
    REQUIRE(!p->grad_empty);
    CHECK(difference(p->grad, truth.grads.at(p->name)) < bound);
  }
}

void check_against_reference(const LlamaConfig& c, LlamaOptions options, double bound) {
  const Llama model(c, options, kAlone);
  MicroBatch batch = make_batch(c, 3);
  batch.loss_scale = 0.01;
  reference::Tensors weights;
  for (const auto& [name, value] : weights_of(model)) weights[name] = value.to(at::kDouble);
  const auto truth = reference::run(c, weights, batch.tokens, batch.targets, 0.01);
  for (int pass = 0; pass < 2; ++pass) {  // the second overwrites the first's gradients
    for (const auto& p : model.parameters()) p->clear_grad();
    const at::Tensor loss = model.forward({}, batch);
    torch::autograd::backward({loss}, {});
    compare(model, loss, truth, bound);
  }
}

}  // namespace

TEST_CASE("llama on one rank equals the plain model") {
  LlamaConfig c = small_config(3);
  LlamaOptions options;
  options.dtype = at::kDouble;
  c.tied = GENERATE(true, false);
  options.recompute = GENERATE(Recompute::kNone, Recompute::kSelective, Recompute::kFull);
  CAPTURE(c.tied, int(options.recompute));
  check_against_reference(c, options, 1e-10);
}

TEST_CASE("llama with awkward sizes and one head") {
  LlamaConfig c = small_config(3);
  c.heads = c.kv_heads = 1;
  c.hidden = 18;
  c.seq = 1;
  c.layers = 1;
  LlamaOptions options;
  options.dtype = at::kDouble;
  check_against_reference(c, options, 1e-10);
  c.seq = 70;  // past one block of keys
  c.heads = c.kv_heads = 9;
  check_against_reference(c, options, 1e-10);
}

TEST_CASE("llama in float32 and bfloat16 is near the float64 model") {
  LlamaConfig c = small_config(3);
  c.init_std = 0.1;
  LlamaOptions options;
  check_against_reference(c, options, 2e-4);
  options.dtype = at::kBFloat16;
  options.recompute = GENERATE(Recompute::kNone, Recompute::kSelective, Recompute::kFull);
  check_against_reference(c, options, 0.1);
}

TEST_CASE("pipeline stages compose to the whole model") {
  LlamaConfig c = small_config(3);
  LlamaOptions options;
  options.dtype = at::kDouble;
  options.recompute = GENERATE(Recompute::kNone, Recompute::kFull);
  const Llama whole(c, options, kAlone);
  const Llama first(c, options, {0, 1, true, false}, kAlone);
  const Llama middle(c, options, {1, 1, false, false}, kAlone);
  const Llama last(c, options, {1, 3, false, true}, kAlone);
  const MicroBatch batch = make_batch(c, 2);
  const auto truth = reference::run(c, weights_of(whole), batch.tokens, batch.targets, 1);

  const at::Tensor a = first.forward({}, batch);
  CHECK(a.sizes() == at::IntArrayRef(first.hidden_shape(2)));
  const at::Tensor b_in = a.detach().requires_grad_(true);
  const at::Tensor b = middle.forward(b_in, batch);
  const at::Tensor c_in = b.detach().requires_grad_(true);
  const at::Tensor loss = last.forward(c_in, batch);
  torch::autograd::backward({loss}, {});
  const bool same = b.is_same(b_in);
  if (!same) torch::autograd::backward({b}, {c_in.grad()});
  torch::autograd::backward({a}, {same ? c_in.grad() : b_in.grad()});
  for (const Llama* part : {&first, &last})
    for (const auto& p : part->parameters()) {
      if (p->shared_embedding) continue;
      INFO(p->name);
      CHECK(difference(p->grad, truth.grads.at(p->name)) < 1e-10);
    }
  // The copies of the tied embedding start equal, and their gradients add up.
  const auto& head = last.parameters().back();
  const auto& table = first.parameters().front();
  CHECK(head->shared_embedding);
  CHECK(at::equal(head->data(), table->data()));
  CHECK(difference(head->grad + table->grad, truth.grads.at("embedding")) < 1e-10);
}

TEST_CASE("impossible configurations are refused in words") {
  LlamaConfig c = small_config(3);
  CHECK(check(c, 6, true).ok());
  CHECK(check(c, 7, false).message().find("6 attention heads") != std::string::npos);
  c.seq = 3;
  CHECK_FALSE(check(c, 4, true).ok());
  CHECK(check(c, 4, false).ok());
  c = small_config(3);
  c.kv_heads = 4;
  CHECK_FALSE(check(c, 1, false).ok());
  const Llama model(small_config(3), {}, kAlone);
  MicroBatch batch;
  batch.tokens = at::full({1, 19}, 29, at::kLong);
  CHECK_THROWS_WITH(model.forward({}, batch), Catch::Contains("outside the vocabulary of 29"));
}

TEST_CASE("evaluation keeps no graph and logits agree with the loss") {
  const LlamaConfig c = small_config(3);
  LlamaOptions options;
  options.dtype = at::kDouble;
  const Llama model(c, options, kAlone);
  const MicroBatch batch = make_batch(c, 2);
  at::NoGradGuard no_grad;
  const at::Tensor loss = model.forward({}, batch);
  CHECK_FALSE(loss.requires_grad());
  const at::Tensor logits = model.logits({}, batch).transpose(0, 1);
  const at::Tensor picked =
      logits.log_softmax(-1).gather(-1, batch.targets.clamp_min(0).unsqueeze(-1)).squeeze(-1);
  CHECK(difference(loss, -(picked * batch.targets.ge(0)).sum()) < 1e-12);
}

}  // namespace convoy::model
