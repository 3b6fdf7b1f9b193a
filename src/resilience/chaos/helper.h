#pragma once

#include <csignal>
#include <ctime>
#include <sys/types.h>

// What a helper process of ours needs: it works until it gets SIGTERM, from us or because we have
// ended, and then puts things right.
namespace convoy::resilience::chaos {

inline sigset_t only_sigterm() {
  sigset_t set;
  ::sigemptyset(&set);
  ::sigaddset(&set, SIGTERM);
  return set;
}

// From here on is_told_to_end() tells of it.
inline void block_sigterm() {
  const sigset_t set = only_sigterm();
  ::sigprocmask(SIG_BLOCK, &set, nullptr);
}

// Waits so long for it.
inline bool is_told_to_end(long within_ms) {
  const sigset_t set = only_sigterm();
  const timespec limit{.tv_sec = within_ms / 1000, .tv_nsec = within_ms % 1000 * 1'000'000};
  return ::sigtimedwait(&set, nullptr, &limit) == SIGTERM;
}

}  // namespace convoy::resilience::chaos
