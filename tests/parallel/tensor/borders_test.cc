// The borders of tensor- and sequence-parallel regions over 3 processes, with uneven parts: forward
// values, and each backward as the transpose of its forward. Linear layers with bias:
// llama_ranks_test has none.
#include "tests/parallel/tensor/fork_ranks.h"
#include <convoy/parallel/sequence/sequence.h>
#include <convoy/parallel/tensor/ops.h>

#include <ATen/ATen.h>
#include <catch2/catch.hpp>
#include <torch/csrc/autograd/autograd.h>

#include <stdexcept>

namespace convoy::parallel {
namespace {

const auto kReal = at::TensorOptions().dtype(at::kDouble);

void expect(const at::Tensor& got, const at::Tensor& want, const char* what) {
  if (!at::allclose(got, want, 1e-12, 1e-12)) throw std::runtime_error(what);
}

// What rank r's f(x) gives for the input `x`, and the gradient of x for the output gradient `g`.
template <class F>
std::pair<at::Tensor, at::Tensor> both(const at::Tensor& x, const at::Tensor& g, const F& f) {
  at::Tensor in = x.clone().requires_grad_(true);
  const at::Tensor out = f(in);
  torch::autograd::backward({out}, {g});
  return {out.detach(), in.grad()};
}

void sequence_borders(const comm::Group& group) {
  const auto sizes = sequence_sizes(8, 3);
  const int64_t begin = sequence_begin(sizes, group.rank());
  const int64_t mine = sizes[group.rank()];
  at::manual_seed(1);
  const at::Tensor x = at::randn({8, 2}, kReal);
  const at::Tensor own = x * (group.rank() + 1);
  const at::Tensor part = x.narrow(0, begin, mine);

  auto [cut, cut_grad] = both(x, part, [&](auto& t) { return scatter_sequence(t, sizes, group); });
  expect(cut, part, "scatter_sequence");
  expect(cut_grad, x, "scatter_sequence backward");
  auto [whole, grad] = both(
      part, own, [&](auto& t) { return gather_sequence(t, sizes, group, GatheredGrad::kPartial); });
  expect(whole, x, "gather_sequence");
  expect(grad, 6 * part, "gather_sequence backward, partial");
  auto copy_grad = both(part, x, [&](auto& t) {
                     return gather_sequence(t, sizes, group, GatheredGrad::kReplicated);
                   }).second;
  expect(copy_grad, part, "gather_sequence backward, replicated");
  auto [reduced, reduced_grad] =
      both(own, part, [&](auto& t) { return reduce_scatter_sequence(t, sizes, group); });
  expect(reduced, 6 * part, "reduce_scatter_sequence");
  expect(reduced_grad, x, "reduce_scatter_sequence backward");
}

void tensor_borders(const comm::Group& group) {
  at::manual_seed(2);
  const at::Tensor x = at::randn({4, 2, 7}, kReal);
  const at::Tensor own = x * (group.rank() + 1);
  const auto sizes = even_sizes(7, 3);
  const Range mine = even_chunk(7, 3, group.rank());
  const at::Tensor columns = x.narrow(2, mine.begin, mine.length).contiguous();

  auto [copied, copied_grad] = both(x, own, [&](auto& t) { return copy_to_group(t, group); });
  expect(copied, x, "copy_to_group");
  expect(copied_grad, 6 * x, "copy_to_group backward");
  auto [reduced, reduced_grad] = both(own, x, [&](auto& t) { return reduce_from_group(t, group); });
  expect(reduced, 6 * x, "reduce_from_group");
  expect(reduced_grad, x, "reduce_from_group backward");
  auto [cut, cut_grad] =
      both(x, columns, [&](auto& t) { return scatter_columns(t, sizes, group); });
  expect(cut, columns, "scatter_columns");
  expect(cut_grad, x, "scatter_columns backward");
  auto [joined, joined_grad] =
      both(columns, x, [&](auto& t) { return gather_columns(t, sizes, group); });
  expect(joined, x, "gather_columns");
  expect(joined_grad, columns, "gather_columns backward");
}

// A two-layer perceptron with biases, column- then row-parallel, against plain matrix products.
void linear_layers(const comm::Group& group, bool sequence_parallel) {
  const auto make = [&](Parameter description) {
    ParameterPtr p = make_parameter(std::move(description), kReal);
    init_normal(*p, 9, 0.5);
    return p;
  };
  const auto parts = [&](const comm::Group& g) {
    return std::vector<ParameterPtr>{make(column_weight("up", 11, 5, g)),
                                     make(describe("up.bias", {11}, Placement::shard(0), g)),
                                     make(row_weight("down", 5, 11, g)),
                                     make(describe("down.bias", {5}, Placement::replicate(), g))};
  };
  const auto run = [&](const comm::Group& g, const at::Tensor& x, const at::Tensor& dy) {
    auto p = parts(g);
    TensorRegion region;
    region.group = g;
    region.sequence_parallel = sequence_parallel;
    if (sequence_parallel) {
      region.sequence_sizes = sequence_sizes(7, g.size());
      p[3]->partial_rows = {0, 5};
    }
    at::Tensor in = x.clone().requires_grad_(true);
    const at::Tensor up = column_parallel_linear(in, p[0], p[1], region);
    const at::Tensor y = row_parallel_linear(up, p[2], p[3], region);
    torch::autograd::backward({y}, {dy});
    sum_partial_gradients(p, g);
    return std::tuple(y.detach(), in.grad(), p);
  };
  at::manual_seed(3);
  const at::Tensor x = at::randn({7, 2, 5}, kReal);
  const at::Tensor dy = at::randn({7, 2, 5}, kReal);
  const auto [want, want_grad, whole] = run(comm::Group(), x, dy);
  // The truth itself: plain products.
  const at::Tensor plain = at::linear(at::linear(x, whole[0]->data(), whole[1]->data()),
                                      whole[2]->data(), whole[3]->data());
  expect(want, plain, "linear layers on one rank");

  const auto sizes = sequence_sizes(7, group.size());
  const auto own = [&](const at::Tensor& t) {
    if (!sequence_parallel) return t;
    return t.narrow(0, sequence_begin(sizes, group.rank()), sizes[group.rank()]).contiguous();
  };
  const auto [got, got_grad, shard] = run(group, own(x), own(dy));
  expect(got, own(want), "linear layers");
  expect(got_grad, own(want_grad), "linear layers: input gradient");
  for (size_t i = 0; i < shard.size(); ++i)
    expect(gather_full(*shard[i], shard[i]->grad, group), whole[i]->grad, shard[i]->name.c_str());
}

}  // namespace

TEST_CASE("borders of parallel regions") {
  CHECK(fork_ranks(3, sequence_borders) == 0);
  CHECK(fork_ranks(3, tensor_borders) == 0);
}

TEST_CASE("column- and row-parallel linear with bias") {
  CHECK(fork_ranks(3, [](const comm::Group& g) { linear_layers(g, false); }) == 0);
  CHECK(fork_ranks(3, [](const comm::Group& g) { linear_layers(g, true); }) == 0);
}

}  // namespace convoy::parallel
