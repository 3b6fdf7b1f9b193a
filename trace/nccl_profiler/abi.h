#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

// NCCL's profiler plugin interface as a plugin's binary has it, versions 5 (NCCL 2.28) and 6 (2.29
// and newer): names are ours, layouts NCCL's. Version 6 adds the copy engine's events; all else is
// the same.
namespace convoy::trace::nccl {

// Types of events, and bits of the mask that asks for them. A child's bit brings its ancestors'
// calls along.
namespace event {
inline constexpr uint64_t kGroup = 1 << 0;
inline constexpr uint64_t kCollective = 1 << 1;  // enqueued, with the number of its channels
inline constexpr uint64_t kMessage = 1 << 2;     // the same, of one side of a message
inline constexpr uint64_t kProxyOp = 1 << 3;     // one channel's part in the network
inline constexpr uint64_t kProxyStep = 1 << 4;
inline constexpr uint64_t kKernelChannel = 1 << 6;  // one channel's part in the kernel
inline constexpr uint64_t kGroupCall = 1 << 8;
inline constexpr uint64_t kCollectiveCall = 1 << 9;
inline constexpr uint64_t kMessageCall = 1 << 10;
inline constexpr uint64_t kKernelLaunch = 1 << 11;
inline constexpr uint64_t kCopyCollective = 1 << 12;  // version 6: done by the copy engine
}  // namespace event

namespace event_state {
inline constexpr int kSendGpuWait = 8;
inline constexpr int kSendWait = 9;
inline constexpr int kReceiveWait = 10;
inline constexpr int kReceiveFlushWait = 11;
inline constexpr int kReceiveGpuWait = 12;
inline constexpr int kProxyOpInProgress = 19;
inline constexpr int kSendPeerWait = 20;
inline constexpr int kKernelChannelStop = 22;
}  // namespace event_state

struct Description {
  uint64_t type;
  void* parent;
  int rank;
  union {
    struct {
      const char* function;
      size_t count;
      const char* dtype;
      int root;
      void* stream;
      bool graph_captured;
    } collective_call;
    struct {
      const char* function;
      size_t count;
      const char* dtype;
      void* stream;
      bool graph_captured;
    } message_call;
    struct {
      uint64_t sequence;  // of this function only
      const char* function;
      const void* send;
      void* receive;
      size_t count;
      int root;
      const char* dtype;
      uint8_t channels, warps;
      const char* algorithm;
      const char* protocol;
      void* parent_group;
    } collective;
    struct {
      const char* function;
      void* buffer;
      const char* dtype;
      size_t count;
      int peer;
      uint8_t channels;
      void* parent_group;
    } message;
    struct {
      pid_t pid;
      uint8_t channel;
      int peer;
      int steps;
      int chunk_bytes;
      int is_send;
    } proxy_op;
    struct {
      int step;
    } proxy_step;
    struct {
      uint8_t channel;
      uint64_t timer;  // ns of the GPU's own clock
    } kernel_channel;
    unsigned char bytes[88];
  };
};
static_assert(sizeof(Description) == 112 && offsetof(Description, bytes) == 24);

union StateArguments {
  struct {
    size_t bytes;
  } proxy_step;
  struct {
    uint64_t timer;
  } kernel_channel;
};
static_assert(sizeof(StateArguments) == 8);

using Logger = void (*)(int level, unsigned long flags, const char* file, int line,
                        const char* format, ...);

// Results are ncclResult_t; 0: success.
struct Plugin {
  const char* name;
  int (*init)(void** context, uint64_t communicator, int* mask, const char* name, int nodes,
              int size, int rank, Logger log);
  int (*start)(void* context, void** handle, Description* description);
  int (*stop)(void* handle);
  int (*state)(void* handle, int state, StateArguments* arguments);
  int (*finalize)(void* context);
};
static_assert(sizeof(Plugin) == 48);

}  // namespace convoy::trace::nccl
