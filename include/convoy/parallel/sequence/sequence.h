#pragma once

#include <convoy/comm/group.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

// Megatron-style sequence parallelism (Korthikanti et al., arXiv 2205.05198): between the
// tensor-parallel regions each rank of the tensor group holds a part of the sequence, dimension 0
// of [seq, batch, hidden], so the collectives move whole contiguous memory. The linear layers of
// parallel/tensor enter and leave such regions by themselves; these are the borders for everything
// else. Parts may differ in size: `sizes` has one entry per rank. Groups of one: identities.
namespace convoy::parallel {

// Even parts of a sequence: the first seq % ranks have one position more. Throws if seq < ranks.
std::vector<int64_t> sequence_sizes(int64_t seq, int ranks);
// The first position of this rank's part.
int64_t sequence_begin(const std::vector<int64_t>& sizes, int rank);

// Replicated -> this rank's part; backward all-gathers.
at::Tensor scatter_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                            const comm::Group& group);

// What the ranks' gradients of a gathered tensor are: equal copies, or addends (when what follows
// is tensor parallel).
enum class GatheredGrad { kReplicated, kPartial };
// This rank's part -> whole; backward cuts the gradient out (kReplicated) or reduce-scatters it.
at::Tensor gather_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                           const comm::Group& group, GatheredGrad grad);

// Addends of the whole -> this rank's part of the sum; backward all-gathers.
at::Tensor reduce_scatter_sequence(const at::Tensor& x, const std::vector<int64_t>& sizes,
                                   const comm::Group& group);

}  // namespace convoy::parallel
