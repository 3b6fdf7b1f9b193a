// From NCCL's tables of functions to the Profiler.
#include "trace/nccl_profiler/plugin.h"

#include "trace/nccl_profiler/profiler.h"
#include <convoy/base/log.h>

#include <exception>

namespace convoy::trace::nccl {
namespace {

constexpr int kInternalError = 3;  // ncclInternalError

// NCCL is no C++: nothing may be thrown through it.
template <class Body>
int guarded(Body body) {
  try {
    return body();
  } catch (const std::exception& e) {
    CONVOY_LOG(Error) << "NCCL is not traced: " << e.what();
    return kInternalError;
  }
}

}  // namespace

int init_v5(void** context, uint64_t id, int* mask, const char* name, int, int size, int rank,
            Logger) {
  return guarded([&] { return Profiler::get().init(context, id, mask, name, size, rank, false); });
}

int init_v6(void** context, uint64_t id, int* mask, const char* name, int, int size, int rank,
            Logger) {
  return guarded([&] { return Profiler::get().init(context, id, mask, name, size, rank, true); });
}

int start(void* context, void** handle, Description* d) {
  Profiler::get().start(context, handle, d);
  return 0;
}

int stop(void* handle) {
  if (handle != nullptr) Profiler::get().stop(handle);
  return 0;
}

int state(void* handle, int state, StateArguments* arguments) {
  if (handle != nullptr) Profiler::get().state(handle, state, arguments);
  return 0;
}

int finalize(void* context) {
  return guarded([&] { return Profiler::get().finalize(context); });
}

}  // namespace convoy::trace::nccl
