#pragma once

#include <cstddef>
#include <cstdint>

// The arithmetic of reductions, for all of NCCL's types and operators.
namespace convoy::standin::nccl {

size_t bytes_of_type(uint32_t dtype);  // of one element

// Rank 0's element first, then 1's, ...: every rank gets the same bits. 16- and 8-bit floats are
// added up in float32 and rounded once; averages of integers are truncated. Integers wrap.
struct Reduction {
  uint32_t dtype = 0, redop = 0;  // redop ncclNumOps: sum of scalar * element
  int ranks = 0;
  const void* const* sources = nullptr;  // by rank; where the stand-in may read
  const uint64_t* scalars = nullptr;     // by rank, bits in the dtype; for ncclNumOps only
  void* const* targets = nullptr;        // all get the result; may be the sources
  int n_targets = 0;
};
// Elements [begin, end) of sources, to the same place counted from `target_begin` in the targets.
void reduce(const Reduction& reduction, size_t begin, size_t end, size_t target_begin);

}  // namespace convoy::standin::nccl
