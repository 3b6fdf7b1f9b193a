#pragma once

#include "trace/nccl_profiler/abi.h"
#include "trace/nccl_profiler/communicator.h"
#include "trace/nccl_profiler/links.h"
#include "trace/nccl_profiler/proxies.h"
#include "trace/nccl_profiler/publisher.h"
#include <convoy/trace/segment.h>

#include <condition_variable>
#include <map>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

namespace convoy::trace::nccl {

// The process's plugin: what NCCL's table of functions leads to. One object, which is never
// destroyed: NCCL's threads may outlive static objects. Callbacks neither allocate, lock nor call
// the kernel; init() and finalize() do. While a communicator is open a thread follows the
// recorder's level, settles what has no end, and publishes counters.
class Profiler {
 public:
  static Profiler& get();

  int init(void** context, uint64_t id, int* mask, const char* name, int size, int rank,
           bool has_copy_engine);
  int finalize(void* context);
  void start(void* context, void** handle, const Description* d);
  void stop(void* handle);
  void state(void* handle, int state, const StateArguments* arguments);

  void name_communicator(std::string_view name, std::vector<uint32_t> ranks);
  // What the thread does, for tests: now.
  void keep();
  const Losses& losses() const { return losses_; }

 private:
  static constexpr uint8_t kCommunicatorsMax = 128;

  Profiler();
  static void forget_in_child();
  bool open_own_recorder();
  CommunicatorOptions options_for(uint64_t id, const char* name, uint32_t size, uint32_t rank);
  void set_mask();  // with mutex_
  void run();
  Communicator* context_of(void* context);
  void* start_kernel(const Description& d);
  void* start_proxy(Communicator& c, uint8_t place, const Description& d);
  void* start_launch(uint8_t place);
  void stale() { losses_.stale.fetch_add(1, std::memory_order_relaxed); }

  Losses losses_;
  Links links_;
  Proxies proxies_{links_, losses_};
  std::array<Communicator, kCommunicatorsMax> communicators_;
  Names names_;  // written before the first communicator
  std::atomic<int> pid_{0};

  std::mutex mutex_;  // guards what follows, and open() and close() of communicators
  std::map<std::string, std::vector<uint32_t>, std::less<>> ranks_of_;
  TickRate rate_;
  Publisher publisher_{links_, communicators_, losses_};
  int* mask_ = nullptr;  // NCCL's, while a communicator is open
  bool has_copy_engine_ = false;
  uint32_t open_count_ = 0;
  bool told_full_ = false;
  std::condition_variable changed_;
  bool ending_ = false;
  std::thread thread_;
};

// What NCCL is asked to tell at a level.
int mask_of(Level level, bool has_copy_engine);

}  // namespace convoy::trace::nccl
