// What the launcher tests start: prints what read_environment() saw as one line, or its error.
#include <convoy/launch/environment.h>

#include <cstdio>

int main() {
  const auto environment = convoy::launch::read_environment();
  if (!environment.ok()) {
    std::fprintf(stderr, "worker: %s\n", environment.status().message().c_str());
    return 1;
  }
  const convoy::launch::Environment& e = environment.value();
  std::printf("worker rank=%d size=%d local=%d/%d master=%s:%d by=%s\n", e.rank, e.world_size,
              e.local_rank, e.local_world_size, e.master_addr.c_str(), e.master_port,
              std::string(convoy::launch::launcher_name(e.launcher)).c_str());
  return 0;
}
