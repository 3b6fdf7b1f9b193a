#pragma once

#include "trace/nccl_profiler/sketch.h"

#include <array>
#include <atomic>
#include <cstddef>
#include <cstdint>

// What the steps of the network cost, summed up where they happen: an entry for each communicator,
// peer, channel and direction.
namespace convoy::trace::nccl {

// What a step waits for, in this order. The first three: of a sender, the others: of a receiver.
enum class Wait : uint8_t { kGpuData, kPeer, kWire, kArrival, kFlush, kGpuDrain };
inline constexpr size_t kWaits = 6;

struct LinkName {
  uint8_t communicator = 0;
  uint32_t peer = 0;  // number in the communicator, 24 bits
  uint8_t channel = 0;
  bool is_send = false;
};

// Written by one thread, the communicator's proxy; read by any. Times are ticks.
struct Link {
  std::atomic<uint64_t> key{0};
  std::atomic<uint64_t> bytes{0}, steps{0};
  std::array<std::atomic<uint64_t>, kWaits> waits{};
  Sketch step_time;

  LinkName name() const;
};

class Links {
 public:
  static constexpr uint32_t kLinksMax = 1024;

  Links();  // throws std::bad_alloc
  ~Links();
  Links(const Links&) = delete;
  Links& operator=(const Links&) = delete;

  // The entry's place, made at its first use; kLinksMax: there is no room. Any thread, no lock.
  uint32_t find(const LinkName& name);
  Link& at(uint32_t place) { return links_[place]; }
  bool is_used(uint32_t place) const;
  // The places of a communicator that has ended are used again.
  void release(uint8_t communicator);

 private:
  static constexpr uint64_t kFree = 0, kReleased = 1;
  static constexpr uint32_t kProbesMax = 64;
  Link* links_;  // kLinksMax; most of their pages are never touched
};

}  // namespace convoy::trace::nccl
