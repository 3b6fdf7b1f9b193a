// Column- and row-parallel linear layers: where the collectives of tensor and sequence parallelism
// sit relative to the matrix products, forward and backward.
#include "parallel/tensor/autograd.h"
#include "parallel/tensor/region.h"
#include <convoy/parallel/tensor/linear.h>

#include <ATen/ops/cat.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/sum.h>

namespace convoy::parallel {
namespace {

at::Tensor as_matrix(const at::Tensor& x) {
  return x.reshape({-1, x.size(-1)});
}

at::Tensor with_last(const at::Tensor& x, const at::Tensor& matrix) {
  std::vector<int64_t> shape = x.sizes().vec();
  shape.back() = matrix.size(1);
  return matrix.view(shape);
}

void add_bias_grad(const ParameterPtr& bias, const at::Tensor& dy) {
  if (bias) bias->add_grad(dy.sum(0));
}

// The same, running while `meanwhile` computes.
template <class F>
at::Tensor leave_while(const at::Tensor& partial, const TensorRegion& region, const F& meanwhile) {
  if (region.group.alone() || !region.overlap) {
    at::Tensor out = leave_region(partial, region);
    meanwhile();
    return out;
  }
  at::Tensor out = partial;
  comm::Pending pending = region.sequence_parallel ? region.group.start_reduce_scatter(
                                                         partial, region.sequence_sizes, &out)
                                                   : region.group.start_all_reduce_(partial);
  meanwhile();
  pending.wait();
  return out;
}

struct Saved {
  at::Tensor tensor;
  std::function<at::Tensor()> again;
  at::Tensor get() const { return tensor.defined() ? tensor : again(); }
};

}  // namespace

at::Tensor copy_to_group(const at::Tensor& x, const comm::Group& group) {
  if (group.alone()) return x;
  at::Tensor out = x.variable_data();
  if (needs_graph({x}))
    record("copy_to_group", {x}, {out}, [group](const Tensors& grads) -> Tensors {
      if (!grads[0].defined()) return {at::Tensor()};
      at::Tensor grad = grads[0].clone(at::MemoryFormat::Contiguous);
      group.all_reduce_(grad);
      return {grad};
    });
  return out;
}

at::Tensor reduce_from_group(const at::Tensor& x, const comm::Group& group) {
  if (group.alone()) return x;
  at::Tensor out = x.detach().clone(at::MemoryFormat::Contiguous);
  group.all_reduce_(out);
  if (needs_graph({x}))
    record("reduce_from_group", {x}, {out}, [](const Tensors& grads) { return grads; });
  return out;
}

namespace {

at::Tensor own_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                       const comm::Group& group) {
  int64_t begin = 0;
  for (int r = 0; r < group.rank(); ++r) begin += sizes[r];
  return x.narrow(-1, begin, sizes[group.rank()]).contiguous();
}

at::Tensor join_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                        const comm::Group& group) {
  // Columns are not contiguous: gather the transposed matrix, whose rows are the columns.
  const at::Tensor rows = as_matrix(x).t().contiguous();
  const at::Tensor all = group.all_gather(rows, sizes);
  return with_last(x, all.t().contiguous());
}

}  // namespace

at::Tensor scatter_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                           const comm::Group& group) {
  if (group.alone()) return x;
  at::Tensor out = own_columns(x.detach(), sizes, group);
  if (needs_graph({x}))
    record("scatter_columns", {x}, {out}, [sizes, group](const Tensors& grads) -> Tensors {
      return {join_columns(grads[0], sizes, group)};
    });
  return out;
}

at::Tensor gather_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                          const comm::Group& group) {
  if (group.alone()) return x;
  at::Tensor out = join_columns(x.detach(), sizes, group);
  if (needs_graph({x}))
    record("gather_columns", {x}, {out}, [sizes, group](const Tensors& grads) -> Tensors {
      return {own_columns(grads[0], sizes, group)};
    });
  return out;
}

at::Tensor column_parallel_linear(const Recomputable& x, const ParameterPtr& weight,
                                  const ParameterPtr& bias, const TensorRegion& region) {
  const at::Tensor input = x.value.detach();
  const at::Tensor w = weight->data();
  const at::Tensor whole = enter_region(input, region);
  at::Tensor y = at::mm(as_matrix(whole), w.t());
  if (bias) y.add_(bias->data());
  y = with_last(whole, y);
  if (!needs_graph({x.value, weight->value})) return y;

  const bool gathered = region.sequence_parallel && !region.group.alone();
  const bool keep_whole = !gathered || (!region.gather_again && !x.again);
  Saved saved{x.again ? at::Tensor() : (keep_whole ? whole : input), x.again};
  record("column_parallel_linear", {x.value, weight->value}, {y},
         [saved, keep_whole, weight, bias, region](const Tensors& grads) -> Tensors {
           const at::Tensor& dy3 = grads[0];
           const at::Tensor dy = as_matrix(dy3);
           const at::Tensor partial = with_last(dy3, at::mm(dy, weight->data()));
           at::Tensor dx = leave_while(partial, region, [&] {
             const at::Tensor input = saved.get();
             const at::Tensor whole = keep_whole ? input : enter_region(input, region);
             weight->add_grad_product(dy.t(), as_matrix(whole));
             add_bias_grad(bias, dy);
           });
           return {dx, at::Tensor()};
         });
  return y;
}

at::Tensor row_parallel_linear(const Recomputable& x, const ParameterPtr& weight,
                               const ParameterPtr& bias, const TensorRegion& region) {
  const at::Tensor input = x.value.detach();
  at::Tensor y =
      leave_region(with_last(input, at::mm(as_matrix(input), weight->data().t())), region);
  if (bias) y.add_(bias->data());
  if (!needs_graph({x.value, weight->value})) return y;

  Saved saved{x.again ? at::Tensor() : input, x.again};
  record("row_parallel_linear", {x.value, weight->value}, {y},
         [saved, weight, bias, region](const Tensors& grads) -> Tensors {
           add_bias_grad(bias, as_matrix(grads[0]));
           const at::Tensor dy3 = enter_region(grads[0].contiguous(), region);
           const at::Tensor dy = as_matrix(dy3);
           const at::Tensor dx = with_last(dy3, at::mm(dy, weight->data()));
           weight->add_grad_product(dy.t(), as_matrix(saved.get()));
           return {dx, at::Tensor()};
         });
  return y;
}

Parameter column_weight(std::string name, int64_t out, int64_t in, const comm::Group& group,
                        std::vector<Segment> segments) {
  return describe(std::move(name), {out, in}, Placement::shard(0, std::move(segments)), group);
}

Parameter row_weight(std::string name, int64_t out, int64_t in, const comm::Group& group,
                     std::vector<Segment> segments) {
  return describe(std::move(name), {out, in}, Placement::shard(1, std::move(segments)), group);
}

HeadShard shard_heads(int64_t q_heads, int64_t kv_heads, int ranks, int rank) {
  TORCH_CHECK(kv_heads > 0 && q_heads % kv_heads == 0, "attention: ", q_heads,
              " query heads can't be grouped over ", kv_heads,
              " key/value heads; make the first a multiple of the second");
  TORCH_CHECK(q_heads >= ranks, "attention: ", q_heads, " query heads can't be cut over ", ranks,
              " tensor-parallel ranks; use tp <= ", q_heads);
  const int64_t group = q_heads / kv_heads;
  HeadShard shard;
  int64_t previous_end = 0;
  for (int r = 0; r < ranks; ++r) {
    const Range q = even_chunk(q_heads, ranks, r);
    const int64_t begin = q.begin / group;
    const int64_t end = (q.end() + group - 1) / group;
    shard.kv_shared = shard.kv_shared || begin < previous_end;
    previous_end = end;
    if (r != rank) continue;
    shard.q_begin = q.begin;
    shard.q_heads = q.length;
    shard.kv_begin = begin;
    shard.kv_heads = end - begin;
    for (int64_t h = q.begin; h < q.end(); ++h) shard.kv_of_q.push_back(h / group - begin);
  }
  return shard;
}

Parameter qkv_weight(std::string name, int64_t q_heads, int64_t kv_heads, int64_t head_dim,
                     int64_t in, const comm::Group& group) {
  const HeadShard mine = shard_heads(q_heads, kv_heads, group.size(), group.rank());
  const auto kv = [&](const char* part) {
    Segment segment{part, kv_heads, head_dim};
    segment.follows = "q";
    return segment;
  };
  Parameter p = column_weight(std::move(name), (q_heads + 2 * kv_heads) * head_dim, in, group,
                              {Segment{"q", q_heads, head_dim}, kv("k"), kv("v")});
  if (mine.kv_shared) p.partial_rows = {q_heads * head_dim, 2 * kv_heads * head_dim};
  return p;
}

}  // namespace convoy::parallel
