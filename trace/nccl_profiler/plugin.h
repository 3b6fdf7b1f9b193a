#pragma once

#include "trace/nccl_profiler/abi.h"

// The functions of the plugin's table, as NCCL calls them (symbols.cc). They take anything: null
// pointers, handles of events that have ended, numbers that nobody gave out.
namespace convoy::trace::nccl {

int init_v5(void** context, uint64_t id, int* mask, const char* name, int nodes, int size, int rank,
            Logger);
int init_v6(void** context, uint64_t id, int* mask, const char* name, int nodes, int size, int rank,
            Logger);
int start(void* context, void** handle, Description* d);
int stop(void* handle);
int state(void* handle, int state, StateArguments* arguments);
int finalize(void* context);

}  // namespace convoy::trace::nccl
