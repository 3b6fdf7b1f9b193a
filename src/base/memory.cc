#include <convoy/base/memory.h>

#include <algorithm>
#include <fstream>
#include <string>

namespace convoy {

uint64_t available_memory() {
  uint64_t available = UINT64_MAX;
  std::ifstream meminfo("/proc/meminfo");
  for (std::string key, rest; meminfo >> key; std::getline(meminfo, rest)) {
    if (key != "MemAvailable:") continue;
    uint64_t kib = 0;
    if (meminfo >> kib) available = kib * 1024;
    break;
  }
  uint64_t limit = 0, current = 0;  // "max" is no number
  if (std::ifstream("/sys/fs/cgroup/memory.max") >> limit &&
      std::ifstream("/sys/fs/cgroup/memory.current") >> current) {
    available = std::min(available, limit > current ? limit - current : 0);
  }
  return available;
}

}  // namespace convoy
