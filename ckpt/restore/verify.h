#pragma once

#include <convoy/ckpt/step_source.h>

#include <cstddef>
#include <cstdint>
#include <span>

namespace convoy::ckpt {

// XXH3 with the processor's best kernel; equals xxh3().
uint64_t checksum_of(std::span<const std::byte> raw);
// The same, and copies past the caches on the way.
uint64_t copy_with_checksum(std::byte* to, std::span<const std::byte> raw);
// kDataLoss, with the chunk's place, if that is not its checksum.
Status compare(const StepSource& source, const ChunkId& id, const Stream& stream,
               uint64_t checksum);

}  // namespace convoy::ckpt
