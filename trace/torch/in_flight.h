#pragma once

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdint>
#include <memory>
#include <mutex>
#include <span>
#include <unordered_map>
#include <vector>

namespace convoy::trace {

// An operation as its records name it.
struct Issued {
  enum class Kind : uint8_t { kCollective, kMessage, kFromAny };

  uint64_t time = 0;  // ticks; these two for kFromAny, which is recorded when its sender is known
  uint64_t bytes = 0;
  uint32_t sequence = 0;
  uint32_t extra = 0;
  uint16_t name = 0;
  uint16_t group = 0;
  Kind kind = Kind::kCollective;
};

// The operations of one group that are under way, by the key that their Work is known by. As long
// as there are no more than some hundred, and one a key, nothing is locked or allocated.
// Thread-safe.
class InFlight {
 public:
  void add(uint64_t key, std::span<const Issued> operations) {
    Slot& slot = slots_[key % kSlots];
    uint64_t free = 0;
    if (operations.size() == 1 &&
        slot.key.compare_exchange_strong(free, kBusy, std::memory_order_acquire)) {
      slot.issued = operations.front();
      slot.key.store(key, std::memory_order_release);
      return;
    }
    const std::lock_guard lock(mutex_);
    more_[key].assign(operations.begin(), operations.end());
    more_count_.store(more_.size(), std::memory_order_release);
  }

  // `change` is called with each operation of `key`.
  template <class Change>
  void update(uint64_t key, Change change) {
    if (visit(key, key, change) || more_count_.load(std::memory_order_acquire) == 0) return;
    const std::lock_guard lock(mutex_);
    const auto found = more_.find(key);
    if (found == more_.end()) return;
    for (Issued& issued : found->second) change(issued);
  }

  // The same, and they are gone.
  template <class Use>
  void take(uint64_t key, Use use) {
    if (visit(key, 0, use) || more_count_.load(std::memory_order_acquire) == 0) return;
    std::vector<Issued> taken;
    {
      const std::lock_guard lock(mutex_);
      const auto found = more_.find(key);
      if (found == more_.end()) return;
      taken = std::move(found->second);
      more_.erase(found);
      more_count_.store(more_.size(), std::memory_order_release);
    }
    for (Issued& issued : taken) use(issued);
  }

 private:
  static constexpr size_t kSlots = 512;
  static constexpr uint64_t kBusy = UINT64_MAX;  // somebody reads or writes the slot
  struct alignas(64) Slot {
    std::atomic<uint64_t> key{0};
    Issued issued;
  };

  // Whether `key` is in its slot; then it has been used, and the slot's key is `after`.
  template <class Use>
  bool visit(uint64_t key, uint64_t after, Use& use) {
    Slot& slot = slots_[key % kSlots];
    while (true) {
      uint64_t is = slot.key.load(std::memory_order_acquire);
      if (is == kBusy) continue;  // for a few ns
      if (is != key) return false;
      if (!slot.key.compare_exchange_weak(is, kBusy, std::memory_order_acquire)) continue;
      if (after != 0) {
        use(slot.issued);
        slot.key.store(after, std::memory_order_release);
        return true;
      }
      Issued issued = slot.issued;
      slot.key.store(0, std::memory_order_release);
      use(issued);
      return true;
    }
  }

  std::array<Slot, kSlots> slots_;
  std::mutex mutex_;
  std::unordered_map<uint64_t, std::vector<Issued>> more_;
  std::atomic<size_t> more_count_{0};
};

}  // namespace convoy::trace
