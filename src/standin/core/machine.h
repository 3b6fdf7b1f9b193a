#pragma once

#include "src/standin/core/memory.h"
#include "src/standin/core/order.h"
#include "src/standin/core/shared_event.h"
#include "src/standin/core/stream.h"

#include <atomic>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

// The simulated machine of one process: devices, their streams, pinned memory, and what was found.
namespace convoy::standin {

// Read once from CONVOY_STANDIN_GPUS, _GPU_MEMORY ("2GiB"), _SEED and _REPORT (a folder).
struct Settings {
  int devices = 1;
  size_t capacity = size_t{2} << 30;
  uint64_t seed = 0;
  std::string report;
  static Settings from_environment();
};

// A stream as programs hold it.
struct StreamHandle {
  std::shared_ptr<Stream> stream;
  OrderChecker::Actor actor = 0;
  // From stream waits, for the next task. Guarded by the machine's mutex.
  std::vector<Ticket> after;
  OrderChecker::Clock after_clock;
};

// An event as programs hold it: the point in a stream that was recorded last.
struct EventHandle {
  bool timed = true;
  bool recorded = false;
  Ticket ticket;
  OrderChecker::Clock clock;
  std::shared_ptr<std::atomic<int64_t>> reached_ns;  // steady clock; 0: not yet
  std::shared_ptr<SharedEvent> shared;               // of several processes, else null
  bool imported = false;                             // another process made it
};

class Machine {
 public:
  static Machine& get();       // lives until the process ends
  static Machine* existing();  // null until somebody has called get()
  explicit Machine(Settings settings);

  const Settings& settings() const { return settings_; }
  int devices() const { return settings_.devices; }
  DeviceMemory& memory(int device) { return *memories_[static_cast<size_t>(device)]; }

  // --- Streams. A null handle is the device's null stream.
  StreamHandle* make_stream(int device, bool blocking, int priority);
  void drop_stream(StreamHandle* handle);
  StreamHandle* resolve(int device, StreamHandle* handle);
  // Queues a task behind all that it must come after, and checks its accesses.
  Ticket enqueue(StreamHandle* stream, const std::string& name,
                 const std::vector<OrderChecker::Access>& accesses, std::function<void()> run);
  bool is_done(StreamHandle* stream);
  void wait(StreamHandle* stream);
  void wait_device(int device);

  // --- Events.
  void record(EventHandle& event, StreamHandle* stream);
  void stream_wait(StreamHandle* stream, const EventHandle& event);
  bool is_reached(const EventHandle& event);
  void wait(const EventHandle& event);

  // --- Memory of the host that copies may use while the program goes on.
  void pin(const void* data, size_t bytes);
  bool unpin(const void* data);
  bool is_pinned(const void* data, size_t bytes);
  // Memory whose accesses can be ordered: of a device, or pinned.
  bool is_tracked(const void* data, size_t bytes);
  // Bytes that got a new owner.
  void forget(const void* data, size_t bytes) { order_.forget(data, bytes); }

  void finding(const std::string& kind, const std::string& text);
  // Of this process, as JSON. `ended`: nothing will be added any more.
  std::string report(bool ended);
  // Writes the report to the report folder, if there is one: when the machine is made, with each
  // new finding (the process may be killed at any time), and at exit. A forked child has findings
  // of its own only.
  void write_report(bool ended);
  // False in a forked child that has found nothing.
  bool is_own_process() const;

 private:
  struct Finding {
    std::string kind, text;
    uint64_t count = 0;
  };
  void report_findings(const std::vector<std::string>& texts);
  void wait_for_process(StreamHandle* stream, const EventHandle& event);
  void tell_never_reached(const SharedEvent& event);

  const Settings settings_;
  OrderChecker order_;
  std::vector<std::unique_ptr<DeviceMemory>> memories_;
  std::recursive_mutex mutex_;  // guards what follows; enqueue order equals check order
  std::vector<std::unique_ptr<StreamHandle>> streams_;
  std::vector<StreamHandle*> null_streams_;  // by device
  uint64_t next_stream_ = 0;
  std::map<uintptr_t, size_t> pinned_;
  std::vector<Finding> findings_;
  int process_;  // whose findings these are
};

}  // namespace convoy::standin
