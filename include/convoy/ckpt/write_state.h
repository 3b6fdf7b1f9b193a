#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/state.h>
#include <convoy/ckpt/store.h>

#include <cstdint>

namespace convoy::ckpt {

// Writes a rank's state as one part of step `step`, straight into the store and without an agent:
// for programs that wait for the disk anyway, such as torch.distributed.checkpoint's writers. Each
// writer has its own `node`. `catalog` has the folder's claim (take_over() or join()); the step
// exists when somebody commits all parts. Blocks until the part is durable; one thread. Memory: one
// chunk and the part's record.
Result<PartRef> write_state(Store& store, Catalog& catalog, uint64_t step, uint32_t node,
                            uint64_t generation, const State& state);

}  // namespace convoy::ckpt
