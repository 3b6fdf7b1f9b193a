#pragma once

#include "trace/nccl_profiler/abi.h"
#include "trace/nccl_profiler/communicator.h"
#include "trace/nccl_profiler/links.h"

#include <array>
#include <atomic>
#include <cstdint>

namespace convoy::trace::nccl {

// The network's operations that are under way, of all communicators; their steps go into Links,
// and at level details each into the trace. Callbacks as for Communicator.
class Proxies {
 public:
  Proxies(Links& links, Losses& losses) : links_(links), losses_(losses) {}

  // `is_own`: its parent is an operation of this process. (Proxies also work for others of the
  // node, PXN; their parents are addresses elsewhere.)
  void* start(uint8_t place, Communicator& communicator, const Description& d, bool is_own);
  // Returns the number of the operation that it belongs to; 0: none.
  uint32_t stop(const Handle& h);
  uint32_t parent(const Handle& h) const;  // the same

  void* start_step(const Handle& proxy, int step);
  void step_state(const Handle& h, int state, const StateArguments* arguments);
  void stop_step(const Handle& h, const Names& names, const Communicator& communicator);
  // Forgets all of a communicator.
  void release(uint8_t place);

 private:
  static constexpr uint32_t kProxiesMax = 4096;  // a power of two
  static constexpr uint32_t kStepsMax = 8;       // of one at a time: NCCL_STEPS
  static constexpr uint8_t kNoWait = 0xff;

  struct Step {
    std::atomic<uint32_t> step{0};                  // number + 1; 0: none
    std::atomic<uint8_t> wait{0};                   // Wait; kNoWait
    std::atomic<uint64_t> begin{0};                 // ticks
    std::atomic<uint64_t> since{0};                 // of `wait`, ticks
    std::array<std::atomic<uint32_t>, 3> waited{};  // units of 16 ticks, for the trace's record
  };
  struct alignas(64) Proxy {
    std::atomic<uint64_t> tag{0};  // number << 32 | place << 1 | in use
    std::atomic<uint32_t> link{0};
    std::atomic<uint32_t> parent{0};
    std::array<Step, kStepsMax> steps;
  };

  Proxy* find(const Handle& h, HandleKind kind) const;
  Step* find_step(const Handle& h, Proxy*& proxy) const;
  void leave(Proxy& proxy, Step& step, uint64_t now);
  void stale() { losses_.stale.fetch_add(1, std::memory_order_relaxed); }

  Links& links_;
  Losses& losses_;
  std::atomic<uint32_t> next_{0};
  mutable std::array<Proxy, kProxiesMax> proxies_{};
};

}  // namespace convoy::trace::nccl
