// Streams, events and host callbacks.
#include "src/standin/cudart/runtime.h"

#include <memory>
#include <string>

using namespace convoy::standin;

namespace {

EventHandle* event_of(cudaEvent_t event) {
  return reinterpret_cast<EventHandle*>(event);
}

cudaError_t make(cudaStream_t* stream, unsigned flags, int priority) {
  const bool blocking = (flags & cudaStreamNonBlocking) == 0;
  *stream =
      reinterpret_cast<cudaStream_t>(machine().make_stream(current_device(), blocking, priority));
  return cudaSuccess;
}

}  // namespace

extern "C" {

cudaError_t cudaStreamCreate(cudaStream_t* stream) {
  return make(stream, cudaStreamDefault, 0);
}

cudaError_t cudaStreamCreateWithFlags(cudaStream_t* stream, unsigned flags) {
  return make(stream, flags, 0);
}

cudaError_t cudaStreamCreateWithPriority(cudaStream_t* stream, unsigned flags, int priority) {
  return make(stream, flags, priority);
}

cudaError_t cudaStreamDestroy(cudaStream_t stream) {
  if (stream == nullptr) return answer(cudaErrorInvalidResourceHandle);
  machine().drop_stream(stream_of(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamGetPriority(cudaStream_t stream, int* priority) {
  *priority = stream_of(stream)->stream->priority();
  return cudaSuccess;
}

cudaError_t cudaStreamQuery(cudaStream_t stream) {
  return machine().is_done(stream_of(stream)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream) {
  machine().wait(stream_of(stream));
  return cudaSuccess;
}

cudaError_t cudaStreamWaitEvent(cudaStream_t stream, cudaEvent_t event, unsigned) {
  if (event == nullptr) return answer(cudaErrorInvalidResourceHandle);
  machine().stream_wait(stream_of(stream), *event_of(event));
  return cudaSuccess;
}

cudaError_t cudaStreamAddCallback(cudaStream_t stream, cudaStreamCallback_t callback, void* data,
                                  unsigned) {
  machine().enqueue(stream_of(stream), "cudaStreamAddCallback", {},
                    [=] { callback(stream, cudaSuccess, data); });
  return cudaSuccess;
}

cudaError_t cudaLaunchHostFunc(cudaStream_t stream, cudaHostFn_t function, void* data) {
  machine().enqueue(stream_of(stream), "cudaLaunchHostFunc", {}, [=] { function(data); });
  return cudaSuccess;
}

// Nothing is ever captured: what begins a capture is refused.
cudaError_t cudaStreamIsCapturing(cudaStream_t, cudaStreamCaptureStatus* status) {
  *status = cudaStreamCaptureStatusNone;
  return cudaSuccess;
}

cudaError_t cudaStreamGetCaptureInfo(cudaStream_t, cudaStreamCaptureStatus* status,
                                     unsigned long long* id, cudaGraph_t* graph,
                                     const cudaGraphNode_t** dependencies,
                                     const cudaGraphEdgeData** edges, size_t* count) {
  *status = cudaStreamCaptureStatusNone;
  if (id != nullptr) *id = 0;
  if (graph != nullptr) *graph = nullptr;
  if (dependencies != nullptr) *dependencies = nullptr;
  if (edges != nullptr) *edges = nullptr;
  if (count != nullptr) *count = 0;
  return cudaSuccess;
}

cudaError_t cudaThreadExchangeStreamCaptureMode(cudaStreamCaptureMode* mode) {
  static thread_local cudaStreamCaptureMode current = cudaStreamCaptureModeGlobal;
  std::swap(*mode, current);
  return cudaSuccess;
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t* event, unsigned flags) {
  auto made = std::make_unique<EventHandle>();
  made->timed = (flags & cudaEventDisableTiming) == 0;
  if ((flags & cudaEventInterprocess) != 0) {
    std::string why;
    if (!made->timed) made->shared = SharedEvent::make(why);
    if (made->shared == nullptr) return answer(cudaErrorInvalidValue);
  }
  *event = reinterpret_cast<cudaEvent_t>(made.release());
  return cudaSuccess;
}

cudaError_t cudaEventCreate(cudaEvent_t* event) {
  return cudaEventCreateWithFlags(event, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t event) {
  if (event == nullptr) return answer(cudaErrorInvalidResourceHandle);
  delete event_of(event);
  return cudaSuccess;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream) {
  if (event == nullptr) return answer(cudaErrorInvalidResourceHandle);
  machine().record(*event_of(event), stream_of(stream));
  return cudaSuccess;
}

cudaError_t cudaEventRecordWithFlags(cudaEvent_t event, cudaStream_t stream, unsigned) {
  return cudaEventRecord(event, stream);
}

cudaError_t cudaEventQuery(cudaEvent_t event) {
  if (event == nullptr) return answer(cudaErrorInvalidResourceHandle);
  return machine().is_reached(*event_of(event)) ? cudaSuccess : cudaErrorNotReady;
}

cudaError_t cudaEventSynchronize(cudaEvent_t event) {
  if (event == nullptr) return answer(cudaErrorInvalidResourceHandle);
  machine().wait(*event_of(event));
  return cudaSuccess;
}

cudaError_t cudaEventElapsedTime(float* milliseconds, cudaEvent_t begin, cudaEvent_t end) {
  if (begin == nullptr || end == nullptr) return answer(cudaErrorInvalidResourceHandle);
  const EventHandle &from = *event_of(begin), &to = *event_of(end);
  const bool usable = from.timed && to.timed && from.recorded && to.recorded;
  if (!usable) return answer(cudaErrorInvalidResourceHandle);
  const int64_t first = *from.reached_ns, last = *to.reached_ns;
  if (first == 0 || last == 0) return cudaErrorNotReady;
  *milliseconds = static_cast<float>(static_cast<double>(last - first) * 1e-6);
  return cudaSuccess;
}

}  // extern "C"
