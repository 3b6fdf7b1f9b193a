#pragma once

#include "tests/temp_folder.h"
#include <convoy/comm/mesh_groups.h>

#include <ATen/Parallel.h>
#include <torch/csrc/distributed/c10d/FileStore.hpp>

#include <cstdio>
#include <functional>
#include <string>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

namespace convoy::parallel {

// Runs `body` in `ranks` forked processes joined in one tensor-parallel group of the backend
// `convoy`. Returns the number of ranks that threw or died; what they threw is on stderr. The
// calling process must not have used torch's threads before.
inline int fork_ranks(int ranks, const std::function<void(const comm::Group&)>& body) {
  const TempFolder folder;
  std::vector<pid_t> children;
  for (int rank = 0; rank < ranks; ++rank) {
    const pid_t pid = fork();
    if (pid != 0) {
      children.push_back(pid);
      continue;
    }
    int code = 0;
    try {
      at::set_num_threads(1);
      auto store = c10::make_intrusive<c10d::FileStore>(folder / "store", ranks);
      comm::MeshGroupsOptions options;
      options.timeout = std::chrono::seconds(60);
      comm::MeshGroups groups(Mesh::create({{"tp", ranks}}, ranks).value(), rank, store, options);
      const comm::Group group = groups.group({"tp"});
      body(group);
      group.barrier();
    } catch (const std::exception& e) {
      std::fprintf(stderr, "rank %d of %d: %s\n", rank, ranks, e.what());
      code = 1;
    }
    std::fflush(stderr);
    _exit(code);
  }
  int failed = 0;
  for (const pid_t pid : children) {
    int status = 0;
    waitpid(pid, &status, 0);
    if (status != 0) ++failed;
  }
  return failed;
}

}  // namespace convoy::parallel
