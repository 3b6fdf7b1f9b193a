#pragma once

#include "trace/nccl_profiler/abi.h"
#include "trace/nccl_profiler/gpu_clock.h"
#include "trace/nccl_profiler/handle.h"
#include "trace/nccl_profiler/vocabulary.h"

#include <array>
#include <atomic>
#include <memory>
#include <string>
#include <vector>

namespace convoy::trace::nccl {

// Of the process, all communicators together.
struct Losses {
  std::atomic<uint64_t> dropped{0}, stale{0}, bogus_times{0}, untold{0};
};

// Host time in ns, for differences only: ticks at a fixed rate.
struct TickRate {
  double ns_per_tick = 1;
  int64_t ns(uint64_t ticks) const {
    return static_cast<int64_t>(static_cast<double>(ticks) * ns_per_tick);
  }
};

struct CommunicatorOptions {
  uint32_t size = 1;
  uint16_t group = 0, graph_group = 0;  // interned; the second: what replayed graphs do
  std::vector<uint32_t> ranks;          // of the job; empty: not known
  bool tells_broadcasts = false;        // collective() comes for them
};

// One communicator's operations, from the call to the end of the kernel. Callbacks may come from
// any thread, also after close(): nothing here is ever freed, and an event that is over is not
// found. Exact as long as what belongs to one operation's kernel and proxies comes from one thread,
// as NCCL does it; otherwise harmless.
class Communicator {
 public:
  // Once, before anything else. All outlive it; names and rate may be filled in until open().
  void attach(uint8_t place, const Names* names, const TickRate* rate, Losses* losses);
  void open(const CommunicatorOptions& options);
  // Operations that are under way stay without an end, but for those that NCCL tells no end of.
  void close();
  void forget() { open_ = false; }  // in a child process: without a record
  bool is_open() const { return open_.load(std::memory_order_acquire); }
  bool is_open_as(uint32_t life) const { return is_open() && life_.load() == life; }
  uint32_t life() const { return life_.load(); }

  // Each returns what NCCL shall know the event by.
  void* call(const Description& d);
  void* collective(const Description& d);
  void* message_call(const Description& d);
  void* message(const Description& d);
  void* copy_engine(const Description& d);
  void* kernel_started(const Handle& parent, uint32_t channel, uint64_t timer);

  void call_returned(const Handle& h);
  void enqueued(const Handle& h);
  void copy_enqueued(const Handle& h);
  void kernel_time(const Handle& h, uint64_t timer);
  void kernel_stopped(const Handle& h);

  // The proxies' parts: they tell the end where no kernel ever does.
  bool proxy_started(const Handle& parent);
  void proxy_moves(uint32_t number);
  void proxy_ended(uint32_t number);

  // Gives an end to operations that NCCL tells none of, once later ones have had theirs: their
  // time. Not from callbacks; call it some times a second.
  void settle();

  // The member's number in records: the rank of the job where that is known.
  uint32_t number_of(uint32_t member) const;
  bool knows_ranks() const { return knows_ranks_.load(std::memory_order_relaxed); }
  uint16_t group() const { return group_.load(std::memory_order_relaxed); }
  const TickRate& rate() const { return *rate_; }

 private:
  enum class Phase : uint32_t { kFree, kCalled, kTold, kEnded };

  static uint64_t operation_tag(uint32_t number, Phase phase) {
    return uint64_t{number} << 32 | static_cast<uint32_t>(phase);
  }

  struct alignas(64) Operation {
    std::atomic<uint64_t> tag{0};          // number << 32 | Phase
    std::atomic<uint64_t> issued{0};       // ticks
    std::atomic<uint64_t> started{0};      // ticks; 0: not yet
    std::atomic<uint64_t> ended{0};        // ticks, once Phase says so
    std::atomic<uint64_t> begin_timer{0};  // GPU ns, the first channel's; 0: none
    std::atomic<uint64_t> end_timer{0};    // the last channel's
    std::atomic<uint64_t> running{0};      // channels, a bit each
    std::atomic<uint64_t> done{0};         // the same
    std::atomic<uint64_t> identity{0};     // extra << 32 | name << 16 | group
    std::atomic<uint32_t> sequence{0};
    std::atomic<uint16_t> proxies{0};  // under way
    std::atomic<uint8_t> channels{0};
    std::atomic<Function> function{Function::kOther};
    std::atomic<bool> had_proxies{false}, enqueued{false}, idle{false};
  };
  // As large as the largest communicator at this place so far.
  struct Memory {
    uint32_t mask = 0, members = 0;
    std::unique_ptr<Operation[]> operations;
    std::unique_ptr<std::atomic<uint32_t>[]> sequences;  // of messages; 4 a member
    std::unique_ptr<std::atomic<uint32_t>[]> numbers;    // a member's number in records
  };
  struct Kind {
    Function function = Function::kOther;
    uint64_t bytes = 0;
    uint16_t name = 0, group = 0;
    uint32_t extra = 0, sequence = 0;
    uint64_t issued = 0;  // ticks; 0: now
  };

  void make_memory(uint32_t size);
  Kind kind_of(Function function, const char* dtype, size_t count, int root, bool in_graph);
  void* begin(const Kind& kind, Phase phase, uint8_t channels, HandleKind handle);
  Operation* find(uint32_t number);  // that is under way
  Operation* find(const Handle& h, HandleKind kind);
  void tell(Operation& op, uint32_t number, uint8_t channels);
  void record_start(Operation& op, uint64_t timer);
  void end(Operation& op, uint32_t number);
  bool end_at(Operation& op, uint32_t number, uint64_t at, uint64_t ran_ns);
  uint64_t end_of_later(uint32_t number, uint32_t last) const;
  void settle_without_kernels();
  uint64_t on_host(uint64_t timer, uint64_t now);
  void* untracked() const { return Handle{HandleKind::kUntracked, place_}.pack(); }
  void* captured() const { return Handle{HandleKind::kCaptured, place_}.pack(); }
  void lose() { losses_->dropped.fetch_add(1, std::memory_order_relaxed); }
  void stale() { losses_->stale.fetch_add(1, std::memory_order_relaxed); }
  void bogus() { losses_->bogus_times.fetch_add(1, std::memory_order_relaxed); }

  std::atomic<bool> open_{false};
  std::atomic<uint32_t> life_{0};
  uint8_t place_ = 0;  // in the table
  const Names* names_ = nullptr;
  const TickRate* rate_ = nullptr;
  Losses* losses_ = nullptr;

  std::atomic<uint32_t> size_{0};
  std::atomic<uint16_t> group_{0}, graph_group_{0};
  std::atomic<bool> knows_ranks_{false};
  std::atomic<Memory*> memory_{nullptr};
  std::vector<std::unique_ptr<Memory>> kept_;  // for late callbacks

  std::atomic<uint32_t> next_{0};  // number of the last operation, counted through all lives
  std::atomic<uint32_t> last_ended_{0};
  uint32_t settled_ = 0, settles_to_ = 0;  // numbers
  std::atomic<uint32_t> sequence_{0}, graph_sequence_{0};
  std::atomic<bool> waits_for_kernels_{true}, has_seen_kernels_{false}, tells_broadcasts_{false};
  std::array<std::atomic<uint64_t>, 64> last_start_{};  // of each channel, GPU ns
  GpuClock clock_;
};

}  // namespace convoy::trace::nccl
