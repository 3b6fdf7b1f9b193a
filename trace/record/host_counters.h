#pragma once

#include <cstdint>
#include <map>
#include <optional>
#include <vector>

namespace convoy::trace {

// What the host does to this process, since the first sample. Reads /proc: some 10 us for each
// thread.
class HostCounters {
 public:
  HostCounters();
  // Records one counter each. `threads`: those whose waiting for a core counts, by their ids in the
  // kernel; they may have ended.
  void sample(const std::vector<int32_t>& threads);

 private:
  std::optional<uint64_t> disk_wait_ns() const;

  const int32_t self_;
  bool delays_are_counted_ = false;  // of single processes, by the kernel
  struct Thread {
    uint64_t run_queue_ns = 0, disk_wait_ns = 0;
  };
  std::map<int32_t, Thread> seen_;
  uint64_t run_queue_ns_ = 0, disk_wait_ns_ = 0;
};

}  // namespace convoy::trace
