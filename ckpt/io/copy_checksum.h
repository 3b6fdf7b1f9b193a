#pragma once

#include <cstddef>
#include <cstdint>

// The inner loops of CopyPool, one set for each instruction set. No C++ library in here: an inline
// function of it, compiled for AVX-512 in one of these files, could be the one that the linker
// keeps for the whole program.
namespace convoy::ckpt {

// Room for one running XXH3.
struct alignas(64) HashState {
  unsigned char bytes[640];
};

struct CopyKernel {
  const char* name;
  void (*begin)(HashState& state);
  // Copies to `to` past the caches and adds the bytes to the checksum; `to` null: adds only. With
  // `to` off a 64-byte boundary, or for the rest of less than 64 bytes, stores are ordinary ones.
  void (*add)(HashState& state, char* to, const char* from, size_t bytes);
  uint64_t (*digest)(const HashState& state);
  // Makes all streamed bytes visible to others; once a thread, before it says that it is done.
  void (*fence)();
};

extern const CopyKernel kCopyKernelBase;
extern const CopyKernel kCopyKernelAvx2;
extern const CopyKernel kCopyKernelAvx512;

// The best one for this processor.
const CopyKernel& copy_kernel();

}  // namespace convoy::ckpt
