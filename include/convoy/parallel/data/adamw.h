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
  AdamW(FlatBuckets& buckets, const AdamWOptions& options);

  // One update from the gradients of FlatBuckets::finish(), multiplied by `grad_scale`. Sharded: a
  // collective over dp. Blocks until the parameters may be used.
  void step(double lr, double grad_scale = 1);

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

  FlatBuckets& buckets_;
  AdamWOptions options_;
  std::vector<Moments> moments_;
  int64_t steps_ = 0;
};

// The factor that brings a gradient of norm `norm` down to `max_norm` (1 if it is below, or if
// max_norm is 0: no clipping).
double clip_scale(double norm, double max_norm);

}  // namespace convoy::data
