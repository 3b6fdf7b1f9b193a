#pragma once

#include <convoy/parallel/data/flat_buckets.h>

#include <cstdint>
#include <vector>

namespace convoy::data {

struct AdamWOptions {
  double beta1 = 0.9;
  double beta2 = 0.95;
  double eps = 1e-8;
  double weight_decay = 0.1;
};

// AdamW over flat buckets with a fused kernel (on the CPU Convoy's, whose bits don't depend on the
// machine; on GPUs torch's, which leaves clipped gradients behind): state for all elements, or with
// sharded buckets (ZeRO-1) for this data-parallel rank's part, after which the parameters are
// all-gathered, a bucket's gather running beside the next bucket's update. 16-bit parameters follow
// float32 master weights, which belong to the state and are taken from the parameters by the first
// step. Holds a reference to the buckets, which must outlive it.
class AdamW {
 public:
  // What a checkpoint holds of a bucket: elements [begin, begin + m.numel()) of its flat memory, as
  // views of the state itself.
  struct BucketState {
    int64_t begin = 0;
    at::Tensor weights;  // the master weights, where there are any; else the parameters
    at::Tensor m;
    at::Tensor v;
  };

  AdamW(FlatBuckets& buckets, const AdamWOptions& options);

  // One update from the gradients of FlatBuckets::finish(), multiplied by `grad_scale`. Sharded: a
  // collective over dp. Blocks until the parameters may be used.
  void step(double lr, double grad_scale = 1);

  // By bucket. What this rank updates: all of it, or its part of sharded buckets.
  std::vector<BucketState> state();
  // Goes on after `steps` updates whose state() has been written in place: brings the parameters
  // up to it. Sharded: a collective over dp.
  void restored(int64_t steps);

  int64_t steps_done() const { return steps_; }
  // Bytes of optimizer state on this rank (moments and master weights).
  int64_t state_bytes() const;

 private:
  // State of one bucket, from the first element that this rank updates.
  struct Moments {
    at::Tensor m;
    at::Tensor v;
    at::Tensor master;  // undefined unless parameters are 16 bits wide
  };
  void take_masters();
  comm::Pending start_gather(const Bucket& bucket) const;

  FlatBuckets& buckets_;
  AdamWOptions options_;
  std::vector<Moments> moments_;
  bool has_masters_ = false;
  int64_t steps_ = 0;
};

// The factor that brings a gradient of norm `norm` down to `max_norm` (1 if it is below, or if
// max_norm is 0: no clipping).
double clip_scale(double norm, double max_norm);

}  // namespace convoy::data
