#pragma once

#include <string>
#include <string_view>

namespace convoy {

// Prints file, line, the condition and `message` to stderr and aborts the process.
[[noreturn]] void check_failed(const char* file, int line, const char* condition,
                               std::string_view message);

}  // namespace convoy

// A broken invariant: our bug or the calling program's. Always on, in release builds too.
// Operating failures (a dead peer, a full disk, a bad file) are Status instead.
#define CONVOY_CHECK(condition, ...)                                                      \
  do {                                                                                    \
    if (!(condition)) [[unlikely]]                                                        \
      ::convoy::check_failed(__FILE__, __LINE__, #condition, ::std::string{__VA_ARGS__}); \
  } while (false)
