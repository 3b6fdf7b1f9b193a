#pragma once

#include <convoy/comm/group.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy::data {

// The sum that a gradient needs beside the one over the data-parallel group, because ranks hold
// copies of the parameter and each saw only a part of its uses.
enum class ExtraSum : uint8_t {
  kNone,
  kTensorParallel,  // replicated over tp, used on a part of the sequence (norms, sequence parallel)
  kTied,            // the embedding that the first and the last pipeline stage share
};

// One parameter as the optimizer sees it.
struct Param {
  std::string name;
  at::Tensor tensor;  // a leaf that requires grad
  bool decay = true;  // whether weight decay applies
  // Whether this rank's copy counts in the global gradient norm: true on exactly one of the ranks
  // that hold the same elements over tp and pp. Data-parallel copies are taken care of here.
  bool counts_in_norm = true;
  ExtraSum extra_sum = ExtraSum::kNone;
  // Which model chunk of this rank it belongs to (interleaved schedules hold several).
  int chunk = 0;
};

// The groups that gradients are summed over. A default group is a group of one.
struct ReductionGroups {
  comm::Group dp;
  comm::Group tp;
  comm::Group tied;   // the ranks that hold the tied embedding of this tp and dp coordinate
  comm::Group world;  // all ranks of the job
};

struct BucketOptions {
  // A reduction starts when this much gradient is ready. Larger: fewer, faster collectives;
  // smaller: more of them run beside the backward pass.
  int64_t bucket_bytes = 4 << 20;
  // ZeRO stage 1: gradients are reduce-scattered, and each data-parallel rank keeps the optimizer
  // state of its part only.
  bool sharded = false;
};

// A run of a bucket's elements that are treated alike.
struct Slot {
  size_t param = 0;    // index into params()
  int64_t offset = 0;  // elements from the bucket's begin
  int64_t count = 0;
};

// Some parameters of one chunk and one ExtraSum, in flat memory: `params` and `grads` have the same
// layout, padded with zeros to equal parts for the data-parallel ranks.
struct Bucket {
  int chunk = 0;
  ExtraSum extra_sum = ExtraSum::kNone;
  at::Tensor params;        // the parameters' type
  at::Tensor grads;         // the same, but float32 for 16-bit parameters
  int64_t shard_begin = 0;  // the part of this data-parallel rank
  int64_t shard_count = 0;
  std::vector<Slot> slots;
};

// Parameters and gradients of one rank in flat buckets, and their reduction over the mesh.
//
// Construction moves every parameter's data into a bucket (the tensor's storage is replaced; the
// tensor object stays) and makes .grad a view of the bucket. Memory comes from the current CPU
// allocator, so with the shared one collectives move it without staging.
//
// A step: zero_grads(); backward of every micro-batch, with arm(chunk) before the last one of each
// chunk; finish(). After arm(), hooks count the parameters whose gradient is complete, and a
// bucket's all-reduce (sharded: reduce-scatter) starts by itself as soon as it and all buckets
// before it are full. Gradients are summed, never averaged: scale the loss by 1 / (tokens of the
// global batch) and the result is the one-process gradient. The order of all sums is fixed, so a
// repeated run gives the same bits, and sharded gives the same bits as not sharded.
//
// Threads: hooks run on autograd's thread while the caller waits in backward(); everything else
// belongs to the caller's thread. Errors: those of comm::Group.
class FlatBuckets {
 public:
  FlatBuckets(std::vector<Param> params, ReductionGroups groups, const BucketOptions& options);
  ~FlatBuckets();
  FlatBuckets(const FlatBuckets&) = delete;
  FlatBuckets& operator=(const FlatBuckets&) = delete;

  void zero_grads();
  // The next backward pass of `chunk` completes its gradients.
  void arm(int chunk);
  // Starts what has not started (parameters that no loss depends on have gradient 0), waits for all
  // reductions and performs the extra sums. Afterwards the gradients of this rank's shard (not
  // sharded: all of them) are those of the whole batch.
  void finish();

  // The L2 norm of the whole model's gradient, each parameter counted once, after finish(). The
  // same bits on all ranks, sharded or not. `also` (may be null): numbers of each rank that the
  // same collective sums over the world, in place.
  double grad_norm(std::vector<double>* also = nullptr) const;
  // Sharded: makes .grad whole on every rank again, for inspection. A collective over dp.
  void gather_grads();

  bool sharded() const;
  const std::vector<Param>& params() const;
  const std::vector<Bucket>& buckets() const;
  const ReductionGroups& groups() const;
  // Number of reductions that started before finish() asked for them in the last step.
  int overlapped() const;

 private:
  struct State;
  // Shared with the parameters' hooks, which may outlive this object.
  std::shared_ptr<State> state_;
};

}  // namespace convoy::data
