// Philox-4x32-10, one block at a time. The vectorised form over a row of elements is in
// kernels_norm.cc and must give the same bits; a test compares them.
#include "parallel/tensor/kernel_math.h"
#include <convoy/parallel/tensor/random.h>

namespace convoy::parallel {

std::array<uint32_t, 4> RandomStream::block(uint64_t block) const {
  std::array<uint32_t, 4> out;
  kernels::philox(static_cast<uint32_t>(block), static_cast<uint32_t>(block >> 32), step,
                  purpose_layer, static_cast<uint32_t>(seed), static_cast<uint32_t>(seed >> 32),
                  out.data());
  return out;
}

uint64_t named_seed(uint64_t seed, std::string_view name) {
  uint64_t hash = 0xcbf29ce484222325ull ^ (seed * 0x9e3779b97f4a7c15ull);  // FNV-1a, seeded
  for (const char c : name) hash = (hash ^ static_cast<uint8_t>(c)) * 0x100000001b3ull;
  hash ^= hash >> 32;  // finalise: FNV mixes the last characters poorly
  hash *= 0xd6e8feb86659fd93ull;
  return hash ^ (hash >> 32);
}

}  // namespace convoy::parallel
