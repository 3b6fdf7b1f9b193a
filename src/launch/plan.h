#pragma once

#include <convoy/launch/launcher.h>

#include <cstdint>
#include <string>
#include <vector>

namespace convoy::launch {

// A launch that has been checked and filled in: what every rank gets, and where files go.
struct Plan {
  LaunchOptions options;
  std::string path;  // of the program
  std::string job_id;
  bool has_common_id = false;  // job_id is the same on all machines
  std::string run_dir;         // absolute; exists, with logs/ in it
  uint16_t port = 0;
  int threads = 1;
  std::vector<std::string> preloaded;  // the stand-in's libraries, when this is a rehearsal
  std::vector<std::string> inherited;  // "NAME=value" of the caller
};

}  // namespace convoy::launch
