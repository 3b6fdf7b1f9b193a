#pragma once

#include <cstddef>

namespace convoy::host {

// Copies past the caches (non-temporal stores): the destination is not read first, which saves a
// third of the memory traffic when it would not stay in a cache anyway. Must be followed by
// stream_fence() before another rank is told. Where the processor has no such stores: memcpy.
void stream_copy(void* to, const void* from, size_t bytes);
void stream_fence();

}  // namespace convoy::host
