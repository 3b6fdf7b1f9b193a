// A profiler plugin that writes a line for each call: thread, call, handle, and what it was told.
// RECORDING_FILE and RECORDING_MASK say where and what; RECORDING_NULL is a mask of events that get
// no handle, RECORDING_FAIL=1 makes init fail. recording_set_mask() changes the mask later. Handles
// are numbers that are never used again.
#include "src/standin/nccl/profiler_abi.h"

#include <atomic>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <fcntl.h>
#include <string>
#include <unistd.h>

namespace convoy::standin::nccl {
namespace {

std::atomic<uint64_t> handles{0};
std::atomic<int*> mask_of_nccl{nullptr};
std::atomic<int> file{-1};
int nulls = 0;

int number_of(const char* name) {
  const char* text = std::getenv(name);
  return text == nullptr ? 0 : std::atoi(text);
}

void note(const char* format, ...) {
  char text[1000];
  const int begin = std::snprintf(text, sizeof text, "%d ", ::gettid());
  std::va_list arguments;
  va_start(arguments, format);
  int n = begin + std::vsnprintf(text + begin, sizeof text - static_cast<size_t>(begin) - 1, format,
                                 arguments);
  va_end(arguments);
  text[n++] = '\n';
  (void)!::write(file, text, static_cast<size_t>(n));  // O_APPEND: one line, whole
}

std::string fields_of(const EventDescription& e) {
  char text[600] = "";
  const auto put = [&](const char* format, auto... values) {
    std::snprintf(text, sizeof text, format, values...);
  };
  switch (e.type) {
    case kEventGroupApi:
      put("depth=%d", e.group_api.depth);
      break;
    case kEventCollApi:
      put("func=%s count=%zu dtype=%s root=%d stream=%p", e.coll_api.function, e.coll_api.count,
          e.coll_api.dtype, e.coll_api.root, e.coll_api.stream);
      break;
    case kEventP2pApi:
      put("func=%s count=%zu dtype=%s stream=%p", e.p2p_api.function, e.p2p_api.count,
          e.p2p_api.dtype, e.p2p_api.stream);
      break;
    case kEventKernelLaunch:
      put("stream=%p", e.kernel_launch.stream);
      break;
    case kEventColl:
      put("seq=%lu func=%s count=%zu dtype=%s root=%d channels=%d send=%p recv=%p algo=%s group=%p",
          e.coll.sequence, e.coll.function, e.coll.count, e.coll.dtype, e.coll.root,
          e.coll.channels, e.coll.send, e.coll.recv, e.coll.algorithm, e.coll.parent_group);
      break;
    case kEventP2p:
      put("func=%s count=%zu dtype=%s peer=%d channels=%d buffer=%p group=%p", e.p2p.function,
          e.p2p.count, e.p2p.dtype, e.p2p.peer, e.p2p.channels, e.p2p.buffer, e.p2p.parent_group);
      break;
    case kEventProxyOp:
      put("pid=%d channel=%d peer=%d steps=%d chunk=%d send=%d", e.proxy_op.pid, e.proxy_op.channel,
          e.proxy_op.peer, e.proxy_op.steps, e.proxy_op.chunk_bytes, e.proxy_op.is_send);
      break;
    case kEventProxyStep:
      put("step=%d", e.proxy_step.step);
      break;
    case kEventKernelCh:
      put("channel=%d timer=%lu", e.kernel_ch.channel, e.kernel_ch.timer);
      break;
    default:
      break;
  }
  return text;
}

using Log = void (*)(int, unsigned long, const char*, int, const char*, ...);

template <int kVersion>
int init(void** context, uint64_t comm_id, int* mask, const char* comm_name, int nodes, int nranks,
         int rank, Log log) {
  const char* path = std::getenv("RECORDING_FILE");
  if (path != nullptr && file < 0) {
    file = ::open(path, O_CREAT | O_WRONLY | O_APPEND | O_CLOEXEC, 0644);
  }
  log(3, 1, __FILE__, __LINE__, "recording rank %d", rank);
  mask_of_nccl = mask;
  nulls = number_of("RECORDING_NULL");
  const uint64_t number = ++handles;
  note("init handle=%lu comm=%lx name=%s nodes=%d nranks=%d rank=%d version=%d", number, comm_id,
       comm_name == nullptr ? "-" : comm_name, nodes, nranks, rank, kVersion);
  if (number_of("RECORDING_FAIL") != 0) return 3;
  *context = reinterpret_cast<void*>(number);
  if (const char* text = std::getenv("RECORDING_MASK")) {
    __atomic_store_n(mask, std::atoi(text), __ATOMIC_RELAXED);
  }
  return 0;
}

int start_event(void* context, void** handle, EventDescription* e) {
  const uint64_t number = ++handles;
  *handle = (static_cast<int>(e->type) & nulls) != 0 ? nullptr : reinterpret_cast<void*>(number);
  note("start handle=%lu type=%lu context=%lu parent=%lu rank=%d %s", number, e->type,
       reinterpret_cast<uint64_t>(context), reinterpret_cast<uint64_t>(e->parent), e->rank,
       fields_of(*e).c_str());
  return 0;
}

int stop_event(void* handle) {
  note("stop handle=%lu", reinterpret_cast<uint64_t>(handle));
  return 0;
}

int record_state(void* handle, int state, StateArguments* arguments) {
  const uint64_t value = arguments == nullptr ? 0 : arguments->kernel_ch.timer;
  note("state handle=%lu state=%d value=%lu", reinterpret_cast<uint64_t>(handle), state, value);
  return 0;
}

int finalize(void* context) {
  note("finalize handle=%lu", reinterpret_cast<uint64_t>(context));
  return 0;
}

}  // namespace
}  // namespace convoy::standin::nccl

using namespace convoy::standin::nccl;

extern "C" {

__attribute__((visibility("default"))) ProfilerTable ncclProfiler_v5 = {
    "recording", init<5>, start_event, stop_event, record_state, finalize};
#ifndef RECORDING_V5_ONLY
__attribute__((visibility("default"))) ProfilerTable ncclProfiler_v6 = {
    "recording", init<6>, start_event, stop_event, record_state, finalize};
#endif

__attribute__((visibility("default"))) void recording_set_mask(int mask) {
  __atomic_store_n(mask_of_nccl.load(), mask, __ATOMIC_RELAXED);
}

}  // extern "C"
