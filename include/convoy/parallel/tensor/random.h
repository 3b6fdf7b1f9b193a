#pragma once

#include <array>
#include <cstdint>
#include <string_view>

// Random numbers that belong to elements, not to ranks: a number is a pure function of (seed,
// purpose, step, layer, global element index), by the counter-based generator Philox-4x32-10
// (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011). So a replicated tensor
// gets the same numbers on every rank, a shard gets its slice of them, recomputation gets them
// again, and no generator state exists that would have to be saved or kept in step.
namespace convoy::parallel {

// What the numbers are for; different purposes never share a number.
enum class Purpose : uint8_t {
  kInit = 1,
  kEmbeddingDropout,
  kAttentionDropout,  // of the attention block's output, before the residual sum
  kFfnDropout,        // of the feed-forward block's output, before the residual sum
  kUser = 64,         // free for programs: kUser, kUser + 1, …
};

// A stream: element e has the 32 random bits `bits(e)`. A value of 16 bytes.
struct RandomStream {
  uint64_t seed = 0;
  uint32_t step = 0;
  uint32_t purpose_layer = 0;  // purpose << 24 | layer

  RandomStream() = default;
  // `layer` < 2^24; `step` counts modulo 2^32.
  RandomStream(uint64_t seed, Purpose purpose, uint64_t step = 0, uint32_t layer = 0)
      : seed(seed),
        step(static_cast<uint32_t>(step)),
        purpose_layer(static_cast<uint32_t>(purpose) << 24 | (layer & 0xffffffu)) {}

  // The bits of elements 4 * block … 4 * block + 3.
  std::array<uint32_t, 4> block(uint64_t block) const;
  uint32_t bits(uint64_t element) const { return block(element / 4)[element % 4]; }
};

// A seed for a named thing (a parameter), from a run's seed: stable across versions and meshes.
uint64_t named_seed(uint64_t seed, std::string_view name);

}  // namespace convoy::parallel
