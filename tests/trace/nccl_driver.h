#pragma once

#include "trace/nccl_profiler/abi.h"
#include "trace/nccl_profiler/profiler.h"
#include <convoy/trace/recorder.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

extern "C" {
extern convoy::trace::nccl::Plugin ncclProfiler_v5;
extern convoy::trace::nccl::Plugin ncclProfiler_v6;
}

namespace convoy::trace::nccl {

// A record with its names in words.
struct Seen {
  Kind kind = Kind::kInstant;
  std::string name, group;
  uint32_t sequence = 0, extra = 0;
  uint64_t value = 0, time = 0;
};

// The process's segment and all that is written to it. One at a time.
class Trace {
 public:
  explicit Trace(Level level = Level::kDetails);
  // What was recorded since the last call, in order of time stamps within each thread.
  std::vector<Seen> read();
  std::shared_ptr<Segment> segment;

 private:
  std::vector<std::unique_ptr<RingReader>> readers_;
};

// Of operations: "issued all_reduce/float32/ 1", one a line.
std::string lines_of(const std::vector<Seen>& records);
inline constexpr const char* kAllReduce = "AllReduce";
// The record of this kind, the one at `at` of several; fails the test if there is none.
const Seen& only(const std::vector<Seen>& records, Kind kind, size_t at = 0);
size_t count_of(const std::vector<Seen>& records, Kind kind);
// The last value of the counter for this peer; UINT64_MAX: it was not recorded.
uint64_t counter_of(const std::vector<Seen>& records, const std::string& name, uint32_t extra = 0);

// ns on the GPU of these tests: the host's clock, far off.
uint64_t gpu_now();

// NCCL's part: calls the plugin as NCCL does.
class FakeNccl {
 public:
  explicit FakeNccl(Plugin& plugin = ncclProfiler_v6) : plugin_(plugin) {}
  ~FakeNccl();  // finalizes what is open

  void* open(uint64_t id, int size, int rank, const char* name = nullptr);
  void close(void* context);

  void* start(void* context, const Description& d);
  void stop(void* handle) { plugin_.stop(handle); }
  void state(void* handle, int state, uint64_t value = 0);

  // Events.
  void* call(void* context, const char* function, size_t count, const char* dtype = "ncclFloat32",
             int root = 0, bool captured = false);
  void* collective(void* context, void* parent, const char* function, size_t count,
                   uint8_t channels = 1);
  void* message_call(void* context, const char* function, bool captured = false);
  void* message(void* context, void* parent, const char* function, int peer, size_t count,
                uint8_t channels = 1);
  void* kernel(void* context, void* parent, int channel, uint64_t timer);
  void end_kernel(void* handle, uint64_t timer);
  void* proxy(void* context, void* parent, int peer, int channel, bool is_send, int pid = 0);
  void* step(void* context, void* parent, int number);

  // A whole collective, kernel included. Returns Coll's handle, which is over.
  void* run(void* context, const char* function, size_t count);

  int mask = 0;

 private:
  Plugin& plugin_;
  std::vector<void*> open_;
};

}  // namespace convoy::trace::nccl
