#pragma once

#include <cstdint>

// What NCCL gets for an event. No pointer: NCCL stops events twice, long after their end, and after
// their communicator's end; a number that is not in use any more is simply not found.
namespace convoy::trace::nccl {

enum class HandleKind : uint8_t {
  kNone,
  kContext,      // number: of the communicator
  kCall,         // number: of the operation
  kOperation,    // the same
  kKernel,       // the same; detail: channel
  kProxyOp,      // number: of the proxy's operation
  kProxyStep,    // the same; detail: step
  kLaunch,       // of a kernel
  kUntracked,    // of an operation that was counted and is not followed
  kCaptured,     // of a call that is captured into a graph
  kCopyEngine,   // number: of the operation
  kMessageCall,  // number: when it was called, in units of 64 ticks
};

struct Handle {
  HandleKind kind = HandleKind::kNone;
  uint8_t communicator = 0;  // its place in the table
  uint32_t number = 0;
  uint32_t detail = 0;  // 20 bits

  static constexpr uint32_t kDetailMask = (1U << 20) - 1;

  void* pack() const {
    return reinterpret_cast<void*>(uint64_t{static_cast<uint8_t>(kind)} << 60 |
                                   uint64_t{communicator} << 52 | uint64_t{number} << 20 |
                                   (detail & kDetailMask));
  }
  // Takes any value; addresses of memory are of no kind.
  static Handle unpack(const void* value) {
    const auto bits = reinterpret_cast<uint64_t>(value);
    return {static_cast<HandleKind>(bits >> 60), static_cast<uint8_t>(bits >> 52),
            static_cast<uint32_t>(bits >> 20), static_cast<uint32_t>(bits) & kDetailMask};
  }
};
static_assert(sizeof(void*) == 8);

}  // namespace convoy::trace::nccl
