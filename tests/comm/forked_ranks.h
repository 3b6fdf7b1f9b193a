#pragma once

#include <cstdlib>
#include <exception>
#include <functional>
#include <iostream>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace convoy {

// Whether every one of `size` forked processes got through `body(rank)` within `limit_s` seconds.
inline bool all_pass(int size, unsigned limit_s, const std::function<void(int)>& body) {
  std::vector<pid_t> children;
  for (int rank = 0; rank < size; ++rank) {
    const pid_t pid = ::fork();
    if (pid == 0) {
      ::alarm(limit_s);
      try {
        body(rank);
        std::_Exit(0);
      } catch (const std::exception& e) {
        std::cerr << "rank " << rank << ": " << e.what() << "\n";
        std::_Exit(1);
      }
    }
    children.push_back(pid);
  }
  bool good = true;
  for (const pid_t pid : children) {
    int status = 0;
    ::waitpid(pid, &status, 0);
    good = good && WIFEXITED(status) && WEXITSTATUS(status) == 0;
  }
  return good;
}

}  // namespace convoy
