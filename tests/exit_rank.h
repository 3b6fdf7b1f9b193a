#pragma once

#include <unistd.h>
#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/lsan_interface.h>
#endif

namespace convoy {

// Ends a forked rank without the parent's exit handlers. In a build with the address sanitizer a
// rank that would have ended well fails when it leaks: _exit() alone would not look.
[[noreturn]] inline void exit_rank(int code) {
#ifdef __SANITIZE_ADDRESS__
  if (__lsan_do_recoverable_leak_check() != 0 && code == 0) code = 98;
#endif
  ::_exit(code);
}

}  // namespace convoy
