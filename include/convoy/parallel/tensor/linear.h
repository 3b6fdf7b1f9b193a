#pragma once

#include <convoy/comm/group.h>
#include <convoy/parallel/tensor/parameter.h>

#include <ATen/core/Tensor.h>

#include <functional>

namespace convoy::parallel {

// A value that a following layer needs again in its backward pass, and, if `again` is set, how to
// compute it then instead of keeping it: selective recompute. `again` runs without autograd.
struct Recomputable {
  at::Tensor value;
  std::function<at::Tensor()> again;

  Recomputable(at::Tensor value)
      : value(std::move(value)) {}  // NOLINT(google-explicit-constructor)
  Recomputable(at::Tensor value, std::function<at::Tensor()> again)
      : value(std::move(value)), again(std::move(again)) {}
};

// How the layers of a tensor-parallel region meet the activations outside of it, which are
// [seq, batch, hidden]: replicated on the ranks of the group, or (sequence parallel) cut along
// dimension 0 into `sequence_sizes`, one per rank (they may differ).
struct TensorRegion {
  comm::Group group;
  bool sequence_parallel = false;
  std::vector<int64_t> sequence_sizes;  // set per call by the model; empty: equal
  // Sequence parallel: gather a column-parallel layer's input again in backward instead of keeping
  // the gathered copy.
  bool gather_again = false;
  // Start the collective of a backward pass, compute the weight's gradient, then wait.
  bool overlap = false;
};

// The plain conjugate pairs, as autograd functions on `group` (Megatron-LM, arXiv 1909.08053, §3):
// f: identity forward, all-reduce backward. g: all-reduce forward, identity backward.
at::Tensor copy_to_group(const at::Tensor& x, const comm::Group& group);
at::Tensor reduce_from_group(const at::Tensor& x, const comm::Group& group);
// Cut / join the last dimension, which is `sizes` on the ranks; the backward of one is the forward
// of the other.
at::Tensor scatter_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                           const comm::Group& group);
at::Tensor gather_columns(const at::Tensor& x, const std::vector<int64_t>& sizes,
                          const comm::Group& group);

// y = x · Wᵀ (+ b) with W's rows (output features) cut over the group: each rank computes its
// features for all tokens. weight: [local out, in]; x: […, in] as `region` says; y: [seq, …, local
// out], whole in the sequence.
at::Tensor column_parallel_linear(const Recomputable& x, const ParameterPtr& weight,
                                  const ParameterPtr& bias, const TensorRegion& region);
// y = sum over ranks of x · Wᵀ (+ b) with W's columns (input features) cut: x is what a
// column-parallel layer gave; y leaves the region, all-reduced or reduce-scattered. The bias is
// added once.
at::Tensor row_parallel_linear(const Recomputable& x, const ParameterPtr& weight,
                               const ParameterPtr& bias, const TensorRegion& region);

// Descriptions to pass to make_parameter, of weights of the full shape [out, in]. `segments`
// (empty: one, cut evenly) are the parts of a fused dimension, each cut by itself.
Parameter column_weight(std::string name, int64_t out, int64_t in, const comm::Group& group,
                        std::vector<Segment> segments = {});
Parameter row_weight(std::string name, int64_t out, int64_t in, const comm::Group& group,
                     std::vector<Segment> segments = {});

// Which attention heads a rank computes. Query heads are cut evenly in whole heads; each rank holds
// the key/value heads that its query heads read, so neighbours may hold the same one.
struct HeadShard {
  int64_t q_begin = 0, q_heads = 0;    // global first query head, count
  int64_t kv_begin = 0, kv_heads = 0;  // likewise
  bool kv_shared = false;              // some rank of the group shares a kv head with another
  std::vector<int64_t> kv_of_q;        // local query head -> local kv head
};
// Throws c10::Error if there are fewer query heads than ranks or kv_heads does not divide q_heads.
HeadShard shard_heads(int64_t q_heads, int64_t kv_heads, int ranks, int rank);
// The weight [(q + 2 kv) heads * head_dim, in] of a fused projection: rows q, k, v.
Parameter qkv_weight(std::string name, int64_t q_heads, int64_t kv_heads, int64_t head_dim,
                     int64_t in, const comm::Group& group);

}  // namespace convoy::parallel
