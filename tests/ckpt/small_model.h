#pragma once

#include <convoy/ckpt/catalog.h>

#include <cstdint>
#include <string>
#include <vector>

// Checkpoints of a small model as a job of several ranks would write them: for tests of what reads
// them. What a tensor holds follows from its name, the element and the step, never from the layout.
namespace convoy::ckpt {

struct SmallModel {
  uint32_t ranks = 4;
  uint32_t ranks_per_node = 2;
  // Which dimension matrices are cut along; replicas: every rank gives every matrix whole.
  int cut = 0;
  bool replicas = false;
  int64_t width = 64;
  uint32_t chunk_bytes = 4096;
  uint64_t freeze = 0;    // steps that `layers.0` changes after; 0: with each step
  bool compress = false;  // on node 0
  int forgets = -1;       // a rank that gives no matrices
};

// What the tensors are in all, row-major.
std::vector<TensorInfo> small_model_tensors(const SmallModel& model);
std::vector<std::byte> small_model_content(const SmallModel& model, const TensorInfo& tensor,
                                           uint64_t step);

// Writes and commits the step; chunks that `base`, if it is not 0, has alike are referred to there.
Status save_small_model(const SmallModel& model, Catalog& catalog, Store& store, uint64_t step,
                        uint64_t base = 0);

}  // namespace convoy::ckpt
