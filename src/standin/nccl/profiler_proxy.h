#pragma once

#include "src/standin/nccl/profiler.h"

#include <condition_variable>
#include <deque>
#include <list>
#include <mutex>
#include <thread>

// A communicator's proxy thread, and the rings in which its kernels leave their times.
namespace convoy::standin::nccl {

class ProxyThread {
 public:
  ProxyThread(const ProfilerIdentity& identity, void* context);
  ~ProxyThread();  // stop(true), if nobody has
  ProxyThread(const ProxyThread&) = delete;
  ProxyThread& operator=(const ProxyThread&) = delete;

  // The proxy's share of a launch's tasks, in order. Starts the thread if they need it.
  void post(const std::vector<std::shared_ptr<TracedTask>>& tasks);
  // From streams: a flag of a task has changed.
  void notify();
  void stop(bool aborted);

  // A kernel's piece begins or ends: the device's time, for all tasks at once.
  void stamp_start(const TracedBatch& batch) { stamp(started_, batch); }
  void stamp_end(const TracedBatch& batch) { stamp(completed_, batch); }

 private:
  struct Slot {
    std::atomic<uint64_t> counter{0}, time{0};
  };
  using Ring = std::array<std::array<Slot, kWorkSlots>, kChannelsMax>;
  static constexpr int kStepsAhead = 8;  // as NCCL_STEPS

  // One connection's part of a task, or a kernel's times on one channel.
  struct Part {
    std::shared_ptr<TracedTask> task;
    bool is_kernel = false, is_send = false;
    int channel = 0, peer = -1, steps = 0;
    size_t bytes = 0;
    // From here on the proxy thread's.
    void* handle = nullptr;
    bool in_progress = false, kernel_started = false, finished = false;
    int posted = 0, waiting = 0, transferred = 0, done = 0;
    size_t transferred_bytes = 0;
    std::array<void*, kStepsAhead> step_handles{};
  };

  void add_parts(const std::shared_ptr<TracedTask>& task, std::vector<Part>& parts) const;
  bool needs_edge(const TracedTask& task, bool is_send, int peer) const;
  size_t edge_bytes(const TracedTask& task) const;
  void stamp(Ring& ring, const TracedBatch& batch);
  uint64_t device_time() const;

  void main();
  bool progress();
  bool progress_kernel(Part& part);
  bool progress_send(Part& part);
  bool progress_recv(Part& part);
  bool begin_part(Part& part);
  void begin_step(Part& part, int state);
  void record_step(Part& part, int step, int state);
  bool end_step(Part& part);
  size_t step_bytes(const Part& part, int step) const;
  bool get_posted();  // may sleep; false: the thread ends
  void sleep();
  bool keeps_waiting();    // with mutex_
  bool append(Part part);  // false: aborted meanwhile

  class Control;

  const ProfilerIdentity& identity_;
  void* const context_;
  std::vector<int> ring_order_;  // ranks, node by node
  int previous_ = 0, next_ = 0;  // in it
  Ring started_, completed_;

  std::mutex mutex_;
  std::condition_variable changed_;
  std::deque<Part> posted_;  // guarded by mutex_
  uint64_t notified_ = 0;    // the same
  bool stopping_ = false, aborted_ = false;
  uint64_t seen_ = 0;                               // the thread's
  std::list<Part> active_;                          // the thread's
  std::chrono::steady_clock::time_point end_by_{};  // the same, once it is to stop
  std::thread thread_;
};

}  // namespace convoy::standin::nccl
