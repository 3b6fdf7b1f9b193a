#pragma once

#include <cstddef>
#include <cstdint>
#include <sys/types.h>

// NCCL's profiler plugin interface, versions 5 and 6, as a plugin's binary has it. Version 6 adds
// three copy-engine events, which the stand-in never starts; the layouts are the same.
namespace convoy::standin::nccl {

// Bits of the activation mask, and types of events.
enum ProfilerEvent : int {
  kEventGroup = 1 << 0,
  kEventColl = 1 << 1,
  kEventP2p = 1 << 2,
  kEventProxyOp = 1 << 3,
  kEventProxyStep = 1 << 4,
  kEventProxyCtrl = 1 << 5,
  kEventKernelCh = 1 << 6,
  kEventNetPlugin = 1 << 7,
  kEventGroupApi = 1 << 8,
  kEventCollApi = 1 << 9,
  kEventP2pApi = 1 << 10,
  kEventKernelLaunch = 1 << 11,
  kEventCeColl = 1 << 12,
  kEventCeSync = 1 << 13,
  kEventCeBatch = 1 << 14,
};

enum ProfilerState : int {
  kStateSendGpuWait = 8,
  kStateSendWait = 9,
  kStateRecvWait = 10,
  kStateRecvFlushWait = 11,
  kStateRecvGpuWait = 12,
  kStateProxyIdle = 13,
  kStateProxyActive = 14,
  kStateProxySleep = 15,
  kStateProxyWakeup = 16,
  kStateProxyAppend = 17,
  kStateProxyAppendEnd = 18,
  kStateProxyOpInProgress = 19,
  kStateSendPeerWait = 20,
  kStateKernelChStop = 22,
  kStateGroupStartApiStop = 23,
  kStateGroupEndApiStart = 24,
};

struct EventDescription {
  uint64_t type;
  void* parent;
  int rank;
  union {
    struct {
      bool graph_captured;
      int depth;
    } group_api;
    struct {
      const char* function;
      size_t count;
      const char* dtype;
      int root;
      void* stream;
      bool graph_captured;
    } coll_api;
    struct {
      const char* function;
      size_t count;
      const char* dtype;
      void* stream;
      bool graph_captured;
    } p2p_api;
    struct {
      void* stream;
    } kernel_launch;
    struct {
      uint64_t sequence;
      const char* function;
      const void* send;
      void* recv;
      size_t count;
      int root;
      const char* dtype;
      uint8_t channels, warps;
      const char* algorithm;
      const char* protocol;
      void* parent_group;
    } coll;
    struct {
      const char* function;
      void* buffer;
      const char* dtype;
      size_t count;
      int peer;
      uint8_t channels;
      void* parent_group;
    } p2p;
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
      uint64_t timer;
    } kernel_ch;
    unsigned char bytes[88];  // the copy-engine events' size
  };
};
static_assert(sizeof(EventDescription) == 112 && offsetof(EventDescription, bytes) == 24);

union StateArguments {
  struct {
    size_t bytes;
  } proxy_step;
  struct {
    int appended;
  } proxy_ctrl;
  struct {
    uint64_t timer;
  } kernel_ch;
};
static_assert(sizeof(StateArguments) == 8);

// Results are ncclResult_t.
struct ProfilerTable {
  const char* name;
  int (*init)(void** context, uint64_t comm_id, int* mask, const char* comm_name, int nodes,
              int nranks, int rank,
              void (*log)(int level, unsigned long flags, const char* file, int line,
                          const char* format, ...));
  int (*start_event)(void* context, void** handle, EventDescription* description);
  int (*stop_event)(void* handle);
  int (*record_state)(void* handle, int state, StateArguments* arguments);
  int (*finalize)(void* context);
};
static_assert(sizeof(ProfilerTable) == 48);

}  // namespace convoy::standin::nccl
