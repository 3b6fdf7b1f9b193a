// Buckets and optimizer on one rank: gradients land in the flat memory, types are kept, the
// optimizer equals AdamW written with tensor operations. What several ranks add (sums, shards, the
// norm over the mesh) is the truth sweep's business.
#include <convoy/parallel/data/adamw.h>
#include <convoy/parallel/data/flat_buckets.h>

#include <ATen/Functions.h>
#include <catch2/catch.hpp>

#include <cmath>

using namespace convoy::data;

namespace {

std::vector<Param> some_params(at::ScalarType type) {
  at::manual_seed(3);
  const auto make = [&](const char* name, at::IntArrayRef shape, bool decay, ExtraSum sum,
                        int chunk) {
    Param p = autograd_param(name, at::randn(shape, at::kDouble).to(type).requires_grad_(true));
    p.decay = decay;
    p.extra_sum = sum;
    p.chunk = chunk;
    return p;
  };
  return {make("embedding", {7, 5}, false, ExtraSum::kTied, 0),
          make("norm", {5}, false, ExtraSum::kTensorParallel, 0),
          make("first", {5, 9}, true, ExtraSum::kNone, 0),
          make("second", {9, 5}, true, ExtraSum::kNone, 1),
          make("last", {5}, true, ExtraSum::kNone, 1)};
}

at::Tensor loss_of(const std::vector<Param>& p) {
  const at::Tensor hidden = (p[0].value + p[1].value).matmul(p[2].value).tanh();
  return (hidden.matmul(p[3].value) * p[4].value).pow(2).sum();
}

// Clones that autograd knows nothing of.
std::vector<at::Tensor> values(const std::vector<Param>& params) {
  std::vector<at::Tensor> out;
  for (const Param& p : params) out.push_back(p.value.detach().clone());
  return out;
}

}  // namespace

TEST_CASE("Gradients of two micro-batches add up in the buckets") {
  const std::vector<Param> plain = some_params(at::kDouble);
  (2 * loss_of(plain)).backward();
  const std::vector<Param> params = some_params(at::kDouble);
  BucketOptions small;
  small.bucket_bytes = 200;
  int partial_sums = 0;
  small.sum_partial = [&] { ++partial_sums; };
  FlatBuckets buckets(params, {}, small);
  CHECK(buckets.buckets().size() >= 4);
  CHECK(buckets.buckets()[0].chunk == 1);
  buckets.begin_step();
  loss_of(params).backward();
  CHECK(buckets.overlapped() == 0);
  buckets.arm(0);
  buckets.arm(1);
  loss_of(params).backward();
  // All but the norm's, whose gradient waits for its sum over tp.
  CHECK(buckets.overlapped() == static_cast<int>(buckets.buckets().size()) - 1);
  buckets.finish();
  CHECK(partial_sums == 1);
  double squares = 0;
  for (size_t i = 0; i < params.size(); ++i) {
    CHECK(at::allclose(params[i].value.grad(), plain[i].value.grad(), 1e-12, 1e-12));
    squares += plain[i].value.grad().pow(2).sum().item<double>();
  }
  std::vector<double> also = {2.5};
  CHECK(buckets.grad_norm(&also) == Approx(std::sqrt(squares)).epsilon(1e-12));
  CHECK(also[0] == 2.5);
}

TEST_CASE("A parameter that no loss depends on has gradient zero and holds nothing up") {
  std::vector<Param> params = some_params(at::kFloat);
  params.push_back(autograd_param("unused", at::ones({3}).requires_grad_(true)));
  FlatBuckets buckets(params, {}, {});
  buckets.begin_step();
  buckets.arm(0);
  buckets.arm(1);
  loss_of(params).backward();
  buckets.finish();
  CHECK(params.back().value.grad().abs().sum().item<float>() == 0.0F);
  CHECK(params.front().value.grad().abs().sum().item<float>() > 0.0F);
}

TEST_CASE("The optimizer is AdamW, with decay where a parameter wants it") {
  const std::vector<Param> params = some_params(at::kDouble);
  FlatBuckets buckets(params, {}, {});
  const AdamWOptions options{.weight_decay = 0.2};
  AdamW optimizer(buckets, options);
  std::vector<at::Tensor> want = values(params);
  std::vector<at::Tensor> m(want.size()), v(want.size());
  for (int t = 1; t <= 3; ++t) {
    buckets.begin_step();
    loss_of(params).backward();
    buckets.finish();
    for (size_t i = 0; i < want.size(); ++i) {
      const at::Tensor g = params[i].value.grad() * 0.5;
      m[i] = t == 1 ? 0.1 * g : 0.9 * m[i] + 0.1 * g;
      v[i] = t == 1 ? 0.05 * g * g : 0.95 * v[i] + 0.05 * g * g;
      if (params[i].decay) want[i] = want[i] * (1 - 0.01 * 0.2);
      want[i] = want[i] - 0.01 * (m[i] / (1 - std::pow(0.9, t))) /
                              ((v[i] / (1 - std::pow(0.95, t))).sqrt() + 1e-8);
    }
    optimizer.step(0.01, 0.5);
    for (size_t i = 0; i < want.size(); ++i) {
      CAPTURE(t, params[i].name);
      CHECK(at::allclose(params[i].value.detach(), want[i], 1e-12, 1e-12));
    }
  }
  CHECK(optimizer.state_bytes() > 0);
}

TEST_CASE("bfloat16 parameters accumulate float32 gradients and follow master weights") {
  const std::vector<Param> params = some_params(at::kBFloat16);
  FlatBuckets buckets(params, {}, {});
  AdamW optimizer(buckets, {});
  buckets.begin_step();
  loss_of(params).backward();
  const at::Tensor once = params[2].value.grad().clone();
  CHECK(once.scalar_type() == at::kFloat);
  for (int i = 0; i < 300; ++i) loss_of(params).backward();
  buckets.finish();
  // A bfloat16 sum would have stopped growing at 256 times its summand.
  CHECK(at::allclose(params[2].value.grad(), 301 * once, 1e-4, 1e-4));
  const at::Tensor before = params[2].value.detach().to(at::kFloat).clone();
  // Steps far below a bfloat16 unit in the last place add up in the master weights.
  for (int i = 0; i < 40; ++i) optimizer.step(1e-4, 1.0);
  CHECK(params[2].value.scalar_type() == at::kBFloat16);
  const at::Tensor moved = (params[2].value.detach().to(at::kFloat) - before).abs();
  CHECK(moved.mean().item<float>() == Approx(40 * 1e-4).epsilon(0.3));
}

TEST_CASE("Clipping scales down to the limit only") {
  CHECK(clip_scale(0.5, 1.0) == 1.0);
  CHECK(clip_scale(4.0, 1.0) == Approx(0.25).epsilon(1e-5));
  CHECK(clip_scale(4.0, 0.0) == 1.0);
}
