#pragma once

#include <convoy/base/clock.h>

#include <atomic>
#include <climits>
#include <cstdint>
#include <linux/futex.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

// The two futex calls that the host engine needs, for words in memory shared between processes.
namespace convoy::host {

// Sleeps while `word` is `expected`, at most `timeout`; may wake for no reason.
inline void futex_wait(const std::atomic<uint32_t>& word, uint32_t expected, Nanos timeout) {
  const auto ns = timeout.count();
  const timespec limit{static_cast<time_t>(ns / 1000000000), static_cast<long>(ns % 1000000000)};
  syscall(SYS_futex, &word, FUTEX_WAIT, expected, &limit, nullptr, 0);
}

inline void futex_wake_all(const std::atomic<uint32_t>& word) {
  syscall(SYS_futex, &word, FUTEX_WAKE, INT_MAX, nullptr, nullptr, 0);
}

// One turn of a loop that waits for another core.
inline void cpu_relax() {
#if defined(__x86_64__)
  __builtin_ia32_pause();
#elif defined(__aarch64__)
  asm volatile("yield");
#endif
}

}  // namespace convoy::host
