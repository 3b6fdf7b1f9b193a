#pragma once

#include <convoy/parallel/tensor/linear.h>

// The two borders of a tensor-parallel region, without autograd.
namespace convoy::parallel {

// What comes from outside, whole in the sequence.
inline at::Tensor enter_region(const at::Tensor& x, const TensorRegion& region) {
  if (!region.sequence_parallel || region.group.alone()) return x;
  return region.group.all_gather(x, region.sequence_sizes);
}

// Sums `partial` over the ranks: all of it (in place), or this rank's part of the sequence.
inline at::Tensor leave_region(const at::Tensor& partial, const TensorRegion& region) {
  if (region.group.alone()) return partial;
  if (region.sequence_parallel) return region.group.reduce_scatter(partial, region.sequence_sizes);
  region.group.all_reduce_(partial);
  return partial;
}

}  // namespace convoy::parallel
