// The borders of sequence-parallel regions as autograd functions: each one's backward is another
// one's forward.
#include <convoy/parallel/sequence/sequence.h>

#include <torch/csrc/autograd/custom_function.h>

#include <numeric>

namespace convoy::parallel {
namespace {

using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

enum class Move { kCut, kGather, kReduceScatter };

at::Tensor run(Move move, const at::Tensor& x, const std::vector<int64_t>& sizes,
               const comm::Group& group) {
  switch (move) {
    case Move::kCut:
      return x.narrow(0, sequence_begin(sizes, group.rank()), sizes[group.rank()]).contiguous();
    case Move::kGather:
      return group.all_gather(x.contiguous(), sizes);
    case Move::kReduceScatter:
      return group.reduce_scatter(x.contiguous(), sizes);
  }
  return x;
}

struct SequenceMove : torch::autograd::Function<SequenceMove> {
  // What backward needs beside tensors.
  struct State : torch::CustomClassHolder {
    Move backward = Move::kCut;
    std::vector<int64_t> sizes;
    comm::Group group;
  };

  static at::Tensor forward(AutogradContext* ctx, const at::Tensor& x, Move forward, Move backward,
                            const std::vector<int64_t>& sizes, const comm::Group& group) {
    auto state = c10::make_intrusive<State>();
    state->backward = backward;
    state->sizes = sizes;
    state->group = group;
    ctx->saved_data["state"] = c10::IValue::make_capsule(state);
    return run(forward, x, sizes, group);
  }
  static variable_list backward(AutogradContext* ctx, const variable_list& grads) {
    const auto capsule = ctx->saved_data["state"].toCapsule();
    const auto* state = static_cast<const State*>(capsule.get());
    return {run(state->backward, grads[0], state->sizes, state->group), {}, {}, {}, {}};
  }
};

}  // namespace

std::vector<int64_t> sequence_sizes(int64_t seq, int ranks) {
  TORCH_CHECK(seq >= ranks, "sequence parallel: a sequence of ", seq, " can't be cut over ", ranks,
              " tensor-parallel ranks; use a longer sequence or switch sequence parallel off");
  std::vector<int64_t> sizes(ranks, seq / ranks);
  for (int64_t r = 0; r < seq % ranks; ++r) ++sizes[r];
  return sizes;
}

int64_t sequence_begin(const std::vector<int64_t>& sizes, int rank) {
  return std::accumulate(sizes.begin(), sizes.begin() + rank, int64_t{0});
}

at::Tensor scatter_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                            const comm::Group& group) {
  if (group.alone()) return x;
  return SequenceMove::apply(x, Move::kCut, Move::kGather, sizes, group);
}

at::Tensor gather_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                           const comm::Group& group, GatheredGrad grad) {
  if (group.alone()) return x;
  const Move back = grad == GatheredGrad::kPartial ? Move::kReduceScatter : Move::kCut;
  return SequenceMove::apply(x, Move::kGather, back, sizes, group);
}

at::Tensor reduce_scatter_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                                   const comm::Group& group) {
  if (group.alone()) return x;
  return SequenceMove::apply(x, Move::kReduceScatter, Move::kGather, sizes, group);
}

}  // namespace convoy::parallel
