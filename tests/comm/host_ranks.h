#pragma once

#include "tests/comm/file_store.h"
#include "tests/exit_rank.h"
#include "tests/temp_folder.h"
#include <convoy/comm/host/group.h>

#include <catch2/catch.hpp>

#include <cstdio>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <sys/wait.h>
#include <thread>
#include <unistd.h>
#include <vector>

// Ranks as threads of the test, each with a Node of its own, or as processes.
namespace convoy::host::testing {

constexpr size_t kTestHeap = size_t{256} << 20;

inline std::shared_ptr<Node> make_node() {
  NodeOptions options;
  options.heap_bytes = kTestHeap;
  return Node::create(options).value();
}

struct Rank {
  int rank;
  int size;
  std::shared_ptr<Node> node;
  std::unique_ptr<Group> group;
};

// Runs `body` on `size` threads at once, each a rank of a group of its own node. Catch2's
// assertions are not thread-safe: bodies return a text, empty when all is well.
inline void run_threads(int size, const std::function<std::string(Rank&)>& body,
                        GroupOptions options = {}) {
  static int groups = 0;
  if (options.name.empty()) options.name = "test" + std::to_string(groups++);
  LocalStore store;
  std::vector<std::string> failures(size);
  std::vector<std::thread> threads;
  for (int r = 0; r < size; ++r) {
    threads.emplace_back([&, r] {
      auto node = make_node();
      auto group = Group::create(node, store, r, size, options);
      if (!group.ok()) {
        failures[r] = group.status().to_string();
        return;
      }
      Rank self{r, size, node, std::move(*group)};
      failures[r] = body(self);
    });
  }
  for (auto& thread : threads) thread.join();
  for (int r = 0; r < size; ++r) {
    INFO("rank " << r << " of " << size);
    CHECK(failures[r] == "");
  }
}

// Runs `body` in `size` processes, each a rank. Returns what wait() said of each. A body reports by
// its exit code and by text on stderr; `parent` runs meanwhile with the processes' ids.
inline std::vector<int> run_processes(
    int size, const std::function<int(Rank&)>& body, const GroupOptions& options,
    const std::function<void(const std::vector<pid_t>&)>& parent = {}) {
  const TempFolder folder;
  std::vector<pid_t> pids;
  for (int r = 0; r < size; ++r) {
    const pid_t pid = fork();
    if (pid == 0) {
      alarm(100);
      FileStore store(folder.path());
      auto node = make_node();
      auto group = Group::create(node, store, r, size, options);
      if (!group.ok()) {
        std::fprintf(stderr, "rank %d: %s\n", r, group.status().to_string().c_str());
        exit_rank(99);
      }
      Rank self{r, size, node, std::move(*group)};
      const int code = body(self);
      self.group.reset();
      self.node.reset();
      exit_rank(code);
    }
    pids.push_back(pid);
  }
  if (parent) parent(pids);
  std::vector<int> outcomes;
  for (const pid_t pid : pids) {
    int status = 0;
    waitpid(pid, &status, 0);
    outcomes.push_back(status);
  }
  return outcomes;
}

inline Deadline soon() {
  return Deadline::after(std::chrono::seconds(60));
}

inline Collective collective(OpKind kind, DType dtype, std::vector<Span> in, std::vector<Span> out,
                             int root = 0, ReduceOp reduce = ReduceOp::kSum) {
  Collective c;
  c.kind = kind;
  c.dtype = dtype;
  c.reduce = reduce;
  c.root = root;
  c.in = std::move(in);
  c.out = std::move(out);
  return c;
}

}  // namespace convoy::host::testing
