#pragma once

#include <convoy/comm/group.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

namespace convoy::data {

// What a gradient needs beside the sum over the data-parallel group, because ranks hold copies of
// the parameter and each saw only a part of its uses.
enum class ExtraSum : uint8_t {
  kNone,
  // Partly over tp (norms in sequence-parallel regions, key/value heads that several ranks hold):
  // what exactly is the layers' knowledge, see BucketOptions::sum_partial.
  kTensorParallel,
  kTied,  // the embedding that the first and the last pipeline stage share
};

// Elements [begin, begin + count) of a parameter, flattened.
struct Elements {
  int64_t begin = 0;
  int64_t count = 0;
};

// One parameter as the optimizer sees it.
struct Param {
  std::string name;
  at::Tensor value;   // a leaf; its storage is replaced
  bool decay = true;  // whether weight decay applies
  // The elements of this rank's copy that count in the global gradient norm: each element of the
  // model on exactly one of the ranks that hold it over tp and pp. Data-parallel copies are taken
  // care of here.
  std::vector<Elements> counted;
  ExtraSum extra_sum = ExtraSum::kNone;
  // Which model chunk of this rank it belongs to (interleaved schedules hold several).
  int chunk = 0;
  // How many times a micro-batch's backward pass adds to the gradient.
  int uses = 1;
  // Makes whoever computes gradients add them to `grad` from now on, and call `added` after each
  // addition.
  std::function<void(const at::Tensor& grad, std::function<void()> added)> attach;
  // A step begins: the next addition overwrites, or finds zeros.
  std::function<void()> clear;
};

// A parameter whose gradient is autograd's .grad: all elements count, one use.
Param autograd_param(std::string name, const at::Tensor& leaf);

// Whom gradients are summed with. A default group is a group of one.
struct ReductionGroups {
  comm::Group dp;
  comm::Group world;  // all ranks of the job
  // The ranks of this pipeline, and the one there that holds the other copy of the tied embedding;
  // -1: no other rank does.
  comm::Group pp;
  int tied_peer = -1;
};

struct BucketOptions {
  // A reduction starts when this much gradient is ready. Larger: fewer, faster collectives;
  // smaller: more of them run beside the backward pass.
  int64_t bucket_bytes = 4 << 20;
  // ZeRO stage 1: gradients are reduce-scattered, and each data-parallel rank keeps the optimizer
  // state of its part only.
  bool sharded = false;
  // Completes the gradients of all ExtraSum::kTensorParallel parameters over tp. Called by finish()
  // on every rank, before those gradients are summed over dp. May be null if there are none.
  std::function<void()> sum_partial;
};

// Where a parameter lies in its bucket.
struct Slot {
  size_t param = 0;    // index into params()
  int64_t offset = 0;  // elements from the bucket's begin
  int64_t count = 0;
};

// Some parameters of one chunk and one ExtraSum, in flat memory: `params` and `grads` have the same
// layout, padded with zeros; if they are sharded, to equal parts for the data-parallel ranks.
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
// tensor object stays) and its gradient becomes a view of the bucket. Memory comes from the current
// CPU allocator, so with the shared one collectives move it without staging.
//
// A step: begin_step(); backward of every micro-batch, with arm(chunk) before the last one of each
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

  // Forgets the gradients of the step before.
  void begin_step();
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
  // Sharded: makes the gradients whole on every rank again, for inspection. A collective over dp.
  void gather_grads();

  // There are more or fewer data-parallel ranks from now on. Not sharded.
  void connect();

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
