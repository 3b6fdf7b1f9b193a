#pragma once

#include <convoy/base/status.h>

#include <string>

namespace convoy::resilience {

// What the process `convoy supervisor` is told.
struct SuperviseOptions {
  int line = -1;  // a descriptor: packets to and from the launcher that started it
  std::string job;
  std::string run_dir;  // for control/state.json and incidents.jsonl
  std::string mesh;
  int ranks = 1;
  int nodes = 1;
  int spares = 0;
};

// Serves the job until the other end of the line has gone. Blocks. Its state is in the run folder:
// a supervisor that dies is simply started again. kInvalidArgument, kDataLoss (control/state.json).
Status supervise(const SuperviseOptions& options);

}  // namespace convoy::resilience
