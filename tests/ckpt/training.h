#pragma once

#include <convoy/ckpt/catalog.h>

#include <cstdint>
#include <string>
#include <vector>

// A small job that writes checkpoints: two nodes with two ranks each, chunks of 64 bytes, what a
// rank holds follows from step and rank. Node 0 compresses, and every second step of node 1 has not
// changed, so its part refers to the step before where that is there.
namespace convoy::ckpt {

inline constexpr uint64_t kStepsApart = 10;

// Writes and commits `step`; `catalog` must have taken over.
Status save(Catalog& catalog, Store& store, uint64_t step);
// Everything but the commit.
Result<Commit> write_data(Catalog& catalog, Store& store, uint64_t step);

// "" if the commit's step holds exactly what save() gives to it, else what is wrong.
std::string difference(Catalog& catalog, Store& store, const Commit& commit);

// Takes over as generation `generation`, and saves `steps` steps from the one after the newest,
// collecting after every second. Stops at the first failure.
struct Progress {
  Status status;
  uint64_t committed = 0;   // newest step whose commit succeeded, or that was there before
  uint64_t attempted = 0;   // newest step that was begun
  bool collecting = false;  // whether collect() was what failed
};
Progress train(Store& store, uint64_t generation, int steps);

}  // namespace convoy::ckpt
