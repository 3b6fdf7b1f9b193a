#pragma once

#include "src/standin/nccl/profiler_plugin.h"
#include "src/standin/nccl/segment.h"

#include <array>
#include <atomic>
#include <chrono>
#include <cstdint>
#include <memory>
#include <string>
#include <vector>

// Tells a profiler plugin what the communicators do, in the order and from the threads of NCCL
// 2.30.7, its oddities included; see profiler.cc.
//
// Threads: GroupApi, CollApi, P2pApi, KernelLaunch, Group, Coll and P2p on the thread that calls
// NCCL; ProxyOp, ProxyStep, ProxyCtrl and KernelCh on one thread for each communicator, made when
// it is first needed. Without a plugin every function returns after one load.
namespace convoy::standin::nccl {

constexpr int kWorkSlots = 64;             // of a channel's ring of kernel times
constexpr int kChannelsMax = 2;            // that one operation uses
constexpr size_t kChunkBytes = 512 << 10;  // of one network step

// A collective, or one direction of a message: what has a Coll or P2p event.
struct TracedTask {
  int mask = 0;  // latched at its call
  void* group_api = nullptr;
  void* api = nullptr;
  void* handle = nullptr;
  Function function = Function::none;
  const void* send = nullptr;
  void* recv = nullptr;  // or a message's buffer
  size_t count = 0, bytes = 0;
  uint32_t dtype = 0;
  int root = -1;  // or peer
  int channels = 1;
  std::array<uint64_t, kChannelsMax> work{};  // its number on each channel
  // Set on the stream's thread.
  std::atomic<bool> started{false}, met{false}, moved{false};
  std::atomic<int64_t> delay_ns{0};  // of the proxy
  bool is_p2p() const { return function == Function::send || function == Function::recv; }
};

// Operations that run as one piece of a kernel, and share its times.
struct TracedBatch {
  std::vector<std::shared_ptr<TracedTask>> tasks;
  bool started = false;
  int left = 0;  // operations
};

// Goes with an operation from its call to its kernel. Empty: nobody traces it.
struct OperationTrace {
  std::vector<std::shared_ptr<TracedTask>> tasks;
  std::shared_ptr<TracedBatch> batch;
};

struct ProfilerIdentity {
  uint64_t comm_id = 0;
  std::string comm_name;  // empty: none
  int rank = 0, nranks = 1;
  std::vector<int> nodes;   // by rank
  uint64_t clock_seed = 0;  // the device's: its timer's offset and drift
};

class ProxyThread;

class Profiler {
 public:
  explicit Profiler(ProfilerIdentity identity);
  ~Profiler();  // closes it as aborted, if nobody has
  Profiler(const Profiler&) = delete;
  Profiler& operator=(const Profiler&) = delete;

  // The communicator ends: nothing of it is told any more. `aborted`: operations that haven't ended
  // never will; else waits until the proxy thread has told about all. Any thread, any number of
  // times.
  void close(bool aborted);

  // --- The calling thread's groups, of any communicators.
  static void call_begins();   // of an operation, before its own implicit group
  static void group_ending();  // any ncclGroupEnd, implicit or not, before it does anything
  static void group_ended();   // the same, after all it did

  // Within the operation's implicit group; `depth` counts it. Fills in the trace.
  void enqueue(const OpRecord& op, void* stream, int depth, OperationTrace& trace);

  // --- On the stream's thread, once for each operation, in this order. After an abort the later
  // ones don't come.
  void started(const OperationTrace& trace);
  void met(const OperationTrace& trace);    // all peers are there
  void moved(const OperationTrace& trace);  // the data have arrived
  void done(const OperationTrace& trace);

  // The proxy thread stands still for so long before it takes up the operation.
  static void delay_proxy(const OperationTrace& trace, std::chrono::nanoseconds by);

  const ProfilerIdentity& identity() const { return identity_; }

 private:
  friend class TracedLaunch;
  void trace_collective(const ProfilerPlugin::Use& plugin, const OpRecord& op, void* stream,
                        OperationTrace& trace);
  void trace_message(const ProfilerPlugin::Use& plugin, const OpRecord& op, void* stream,
                     OperationTrace& trace);
  bool is_open() const { return !closed_.load(std::memory_order_acquire); }

  const ProfilerIdentity identity_;
  bool opened_ = false;
  void* context_ = nullptr;
  std::atomic<bool> closed_{false};
  std::array<uint64_t, 16> sequences_{};        // by Function; launches' only
  std::array<uint64_t, kChannelsMax> works_{};  // the same
  std::unique_ptr<ProxyThread> proxy_;
};

// One launch of operations on one communicator, on the launching thread. Launches of a communicator
// follow each other.
class TracedLaunch {
 public:
  TracedLaunch(Profiler& profiler, void* stream) : profiler_(profiler), stream_(stream) {}
  // In the order of the calls, before begin().
  void add(const OpRecord& op, OperationTrace& trace);
  void begin();  // KernelLaunch starts; then the work is queued
  void end();    // KernelLaunch stops, Coll and P2p start and stop, the proxy gets its work
 private:
  const TracedTask* first_masked() const;
  void start_colls(const ProfilerPlugin::Use& plugin, void* group);
  void start_p2ps(const ProfilerPlugin::Use& plugin, void* group);

  Profiler& profiler_;
  void* const stream_;
  std::vector<std::shared_ptr<TracedTask>> colls_, p2ps_;
  std::shared_ptr<TracedBatch> message_batch_, last_batch_;
  OpRecord last_;
  void* kernel_launch_ = nullptr;
};

}  // namespace convoy::standin::nccl
