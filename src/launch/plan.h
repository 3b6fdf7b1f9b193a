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
  uint64_t generation = 0;  // that the ranks start in: of a job that goes on under another launcher
  std::vector<std::string> preloaded;  // the stand-in's libraries, when this is a rehearsal
  std::vector<std::string> inherited;  // "NAME=value" of the caller
};

// Other ports of the job, derived from its store's so that all machines know them: 1 the tracer's,
// 2 the supervisor's.
inline uint16_t neighbour_port(uint16_t port, int offset) {
  return static_cast<uint16_t>(port + offset <= UINT16_MAX ? port + offset : port - offset);
}

// The options of `convoy trace` and `convoy supervisor` that say the same.
void add_words(const Protection& protection, std::vector<std::string>* words);

}  // namespace convoy::launch
