#pragma once

#include <convoy/base/status.h>

#include <cstdint>
#include <sys/types.h>

namespace convoy::resilience::chaos {

// Where a bit of a worker's parameters lies.
struct Bit {
  uint64_t offset = 0;  // of the 8-byte word that has it
  uint64_t mask = 0;
};
// The `place`-th of the bits that may be flipped in so many bytes of parameters, counted around.
// Only upper bits of a mantissa, whether the word is one float64, two float32 or four bfloat16 or
// float16: the value stays finite, and no update rounds the difference away.
Bit bit_at(uint64_t bytes, uint64_t place);

// Flips it in the memory of a worker that trains, while it waits for other ranks: so no update is
// under way that could write over it. The step that the worker had done then.
// kFailedPrecondition: it shows no parameters, or does not train; kDeadlineExceeded: it never
// waits.
Result<int64_t> flip_a_parameter(pid_t pid, uint64_t place);

// The same with a gradient, and the uppermost bit of its exponent: what is summed with it is
// infinite or nearly so. Whether anything is depends on the moment: it may be read no more.
Result<int64_t> flip_a_gradient(pid_t pid, uint64_t place);

}  // namespace convoy::resilience::chaos
