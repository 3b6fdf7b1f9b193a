// Embedding lookup and softmax cross entropy over a vocabulary that is cut over the tensor group.
#include "parallel/tensor/autograd.h"
#include "parallel/tensor/kernels.h"
#include "parallel/tensor/region.h"
#include "parallel/tensor/threads.h"
#include <convoy/parallel/tensor/vocabulary.h>

#include <ATen/ops/empty.h>
#include <ATen/ops/exp.h>
#include <ATen/ops/log.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/where.h>

#include <cmath>
#include <cstring>

namespace convoy::parallel {
namespace {

// [batch, seq] ids -> this shard's row of each in [seq, batch] order, or -1.
at::Tensor local_rows(const at::Tensor& tokens, int64_t vocab, Range mine) {
  const at::Tensor ids = tokens.t().contiguous().view({-1});
  if (!ids.is_cpu()) {
    const at::Tensor local = ids - mine.begin;
    return at::where(local.ge(0).logical_and(local.lt(mine.length)), local, -1);
  }
  at::Tensor rows = at::empty_like(ids);
  const auto* id = ids.const_data_ptr<int64_t>();
  auto* row = rows.mutable_data_ptr<int64_t>();
  for (int64_t i = 0; i < ids.numel(); ++i) {
    TORCH_CHECK(id[i] >= 0 && id[i] < vocab, "embedding: token ", id[i], " at position ",
                i / tokens.size(0), " of row ", i % tokens.size(0),
                " is outside the vocabulary of ", vocab);
    row[i] = id[i] >= mine.begin && id[i] < mine.end() ? id[i] - mine.begin : -1;
  }
  return rows;
}

at::Tensor lookup(const at::Tensor& weight, const at::Tensor& rows) {
  if (!weight.is_cpu()) return weight.index_select(0, rows.clamp_min(0)) * rows.ge(0).unsqueeze(1);
  at::Tensor out = at::empty({rows.numel(), weight.size(1)}, weight.options());
  const auto* row = rows.const_data_ptr<int64_t>();
  const size_t bytes = weight.size(1) * weight.element_size();
  const auto* from = static_cast<const char*>(weight.const_data_ptr());
  auto* to = static_cast<char*>(out.mutable_data_ptr());
  for (int64_t i = 0; i < rows.numel(); ++i) {
    if (row[i] >= 0)
      std::memcpy(to + i * bytes, from + row[i] * bytes, bytes);
    else
      std::memset(to + i * bytes, 0, bytes);
  }
  return out;
}

// What the shards know of each row's softmax, put together.
template <class T>
double combine(const T* all, int64_t ranks, int64_t rank, const int64_t* targets, int64_t rows,
               T* factor) {
  double loss = 0;
  for (int64_t r = 0; r < rows; ++r) {
    T max = all[3 * r];
    for (int64_t k = 1; k < ranks; ++k) max = std::max(max, all[3 * (k * rows + r)]);
    T sum = 0;
    T target = 0;
    for (int64_t k = 0; k < ranks; ++k) {
      const T* s = all + 3 * (k * rows + r);
      sum += s[1] * std::exp(s[0] - max);
      target += s[2];
    }
    factor[r] = std::exp(all[3 * (rank * rows + r)] - max) / sum;
    if (targets[r] >= 0) loss += static_cast<double>(max + std::log(sum) - target);
  }
  return loss;
}

at::Tensor loss_with_kernels(const at::Tensor& logits, const at::Tensor& targets, Range mine,
                             double scale, const comm::Group& group) {
  const at::Tensor exps = logits.detach();
  TORCH_CHECK(exps.is_contiguous(), "cross entropy: logits must be contiguous");
  const int64_t rows = targets.numel();
  const at::Tensor stats = at::empty({1, rows, 3}, exps.options());
  const at::Tensor factor = at::empty({rows}, exps.options());
  const auto* target = targets.const_data_ptr<int64_t>();
  double sum = 0;
  dispatch_real(exps, [&]<class T>(T) {
    parallel_rows(rows, 8 * mine.length, [&](int64_t begin, int64_t end) {
      kernels::loss_forward(ptr<T>(exps), target, mine.begin, mine.length, begin, end,
                            ptr<T>(stats));
    });
    const at::Tensor all = group.alone() ? stats : group.all_gather(stats);
    sum = combine(ptr<T>(all), group.size(), group.rank(), target, rows, ptr<T>(factor));
  });
  at::Tensor loss = at::empty({}, exps.options());
  loss.fill_(scale * sum);
  if (!needs_graph({logits})) return loss;
  record("vocab_parallel_cross_entropy", {logits}, {loss},
         [exps, targets, factor, mine, scale, rows](const Tensors& grads) -> Tensors {
           const double g = scale * grads[0].item<double>();
           const auto* target = targets.const_data_ptr<int64_t>();
           dispatch_real(exps, [&]<class T>(T) {
             parallel_rows(rows, mine.length, [&](int64_t begin, int64_t end) {
               kernels::loss_backward(ptr<T>(exps), target, ptr<T>(factor), static_cast<T>(g),
                                      mine.begin, mine.length, begin, end);
             });
           });
           return {exps};
         });
  return loss;
}

// The same by ATen calls, for other devices. logits: float32 or float64 [rows, local vocabulary].
at::Tensor plain_loss(const at::Tensor& logits, const at::Tensor& targets, Range mine, double scale,
                      const comm::Group& group) {
  // Not detach(): that shares the version counter, and logits are a view, whose place in the graph
  // autograd works out anew once it sees the memory changed.
  const at::Tensor exps = logits.variable_data();
  at::Tensor max = std::get<0>(exps.max(1));
  group.all_reduce_(max, c10d::ReduceOp::MAX);
  const at::Tensor local = targets - mine.begin;
  const at::Tensor held = local.ge(0).logical_and(local.lt(mine.length));
  const at::Tensor index = local.clamp(0, mine.length - 1).unsqueeze(1);
  at::Tensor target = exps.gather(1, index).squeeze(1) * held;
  exps.sub_(max.unsqueeze(1)).exp_();
  at::Tensor both = at::stack({exps.sum(1), target});
  group.all_reduce_(both);
  const at::Tensor counts = targets.ge(0).to(exps.scalar_type());
  at::Tensor loss = ((max + both[0].log() - both[1]) * counts).sum() * scale;
  if (!needs_graph({logits})) return loss;
  record("vocab_parallel_cross_entropy", {logits}, {loss},
         [exps, index, held, counts, factor = counts / both[0], scale](const Tensors& grads) {
           exps.mul_(factor.unsqueeze(1));
           exps.scatter_add_(1, index, (held * -counts).unsqueeze(1));
           exps.mul_(grads[0] * scale);
           return Tensors{exps};
         });
  return loss;
}

}  // namespace

at::Tensor vocab_parallel_embedding(const at::Tensor& tokens, const ParameterPtr& weight,
                                    const TensorRegion& region) {
  TORCH_CHECK(tokens.dim() == 2, "embedding: want tokens [batch, seq], not ", tokens.sizes());
  const int64_t vocab = weight->full_shape()[0];
  const Range mine = even_chunk(vocab, region.group.size(), region.group.rank());
  const at::Tensor rows = local_rows(tokens, vocab, mine);
  const at::Tensor whole =
      lookup(weight->data(), rows).view({tokens.size(1), tokens.size(0), weight->full_shape()[1]});
  at::Tensor out = leave_region(whole, region);
  if (needs_graph({weight->value}))
    record("vocab_parallel_embedding", {weight->value}, {out},
           [rows, weight, region](const Tensors& grads) -> Tensors {
             const at::Tensor dy = enter_region(grads[0].contiguous(), region);
             weight->add_grad_rows(rows, dy.view({-1, dy.size(-1)}));
             return {at::Tensor()};
           });
  return out;
}

at::Tensor vocab_parallel_cross_entropy(const at::Tensor& logits, const at::Tensor& targets,
                                        int64_t vocab, double scale, const comm::Group& group) {
  const Range mine = even_chunk(vocab, group.size(), group.rank());
  TORCH_CHECK(logits.dim() == 3 && logits.size(2) == mine.length &&
                  logits.size(0) * logits.size(1) == targets.numel(),
              "cross entropy: logits ", logits.sizes(), " do not fit targets ", targets.sizes(),
              " and a vocabulary shard of ", mine.length);
  const at::Tensor flat = targets.t().contiguous().view({-1});
  const bool narrow = logits.scalar_type() != at::kFloat && logits.scalar_type() != at::kDouble;
  const at::Tensor wide = narrow ? logits.to(at::kFloat) : logits;
  if (has_kernel(wide)) return loss_with_kernels(wide, flat, mine, scale, group);
  return plain_loss(wide.view({-1, mine.length}), flat, mine, scale, group);
}

}  // namespace convoy::parallel
