#pragma once

#include <atomic>
#include <cstdint>

namespace convoy {

// What a process shows of its work to whoever watches it from outside, through a page of shared
// memory: plain stores, which cost nanoseconds and go on being readable when the process is halted.
struct Vitals {
  std::atomic<int64_t> step{0};      // training steps that are done
  std::atomic<int64_t> step_ns{0};   // that the last one of them took, and what follows a step
  std::atomic<uint32_t> waiting{0};  // operations with other ranks that are going on
  // 1: steps follow each other, so a silence far beyond the usual time of a step is a hang.
  std::atomic<uint32_t> training{0};
  // Where in its memory some of its parameters and gradients lie: who tests what finds flipped bits
  // flips one.
  std::atomic<uint64_t> parameters{0}, parameter_bytes{0};
  std::atomic<uint64_t> gradients{0}, gradient_bytes{0};
  // 1: the job may go on with another mesh; this process takes any place in any.
  std::atomic<uint32_t> takes_any_mesh{0};
  // Not 0: a save waits for room or is copied, which has deadlines of its own and is no hang.
  std::atomic<uint32_t> saving{0};
};

// One page for a process, also for libraries that hide what they don't mean to export.
[[gnu::visibility("default")]] inline Vitals private_vitals;
[[gnu::visibility("default")]] inline std::atomic<Vitals*> shown_vitals{&private_vitals};

// This process's; until somebody watches, a page that nobody sees.
inline Vitals& vitals() {
  return *shown_vitals.load(std::memory_order_relaxed);
}
// Shows them on this page from now on; it must outlive the process's work.
inline void show_vitals(Vitals* page) {
  shown_vitals.store(page, std::memory_order_release);
}

// While it lives, one of this process's counts is higher by one.
class Counted {
 public:
  explicit Counted(std::atomic<uint32_t>& count) : count_(count) {
    count_.fetch_add(1, std::memory_order_relaxed);
  }
  ~Counted() { count_.fetch_sub(1, std::memory_order_relaxed); }
  Counted(const Counted&) = delete;
  Counted& operator=(const Counted&) = delete;

 private:
  std::atomic<uint32_t>& count_;
};

struct WaitingForOthers : Counted {
  WaitingForOthers() : Counted(vitals().waiting) {}
};
struct WaitingForSave : Counted {
  WaitingForSave() : Counted(vitals().saving) {}
};

}  // namespace convoy
