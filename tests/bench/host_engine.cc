// Times the host engine alone, without torch: forks N ranks and prints, for each operation, size
// and placement, the median time, GB/s of one rank's data, and the share of the memory-traffic
// limit: the least bytes that must pass the memory bus, at the rate at which N processes copy with
// streaming stores in the same run. Usage: host_engine [ranks...]; QUICK=1: fewer repeats; PIN=1:
// rank r stays on core r modulo their number; ONLY=name, SIZES="bytes ..." and
// PLACE=shared|private choose.
#include "src/comm/host/copy.h"
#include "tests/comm/file_store.h"
#include "tests/temp_folder.h"
#include <convoy/comm/host/group.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <functional>
#include <sched.h>
#include <sstream>
#include <string>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>
#include <vector>

using namespace convoy;
using namespace convoy::host;

namespace {

double now_us() {
  return std::chrono::duration<double, std::micro>(
             std::chrono::steady_clock::now().time_since_epoch())
      .count();
}

Deadline soon() {
  return Deadline::after(std::chrono::seconds(120));
}

struct Bench {
  std::shared_ptr<Node> node;
  std::unique_ptr<Group> group;
  int rank, size;
  double limit_gbs = 0;  // bytes read plus written, all ranks together

  void barrier() {
    Collective op;
    if (const Status s = group->run({&op, 1}, soon()); !s.ok()) {
      std::fprintf(stderr, "%s\n", s.to_string().c_str());
      _exit(1);
    }
  }

  // Median time of `body` on rank 0, begun together; for each batch of `inner` calls.
  double time(int repeats, int inner, const std::function<void()>& body) {
    for (int i = 0; i < 2; ++i) body();
    std::vector<double> times;
    for (int i = 0; i < repeats; ++i) {
      // Rank 0 may be the last to wake up from the barrier: the clock starts before it.
      const double from = now_us();
      barrier();
      for (int k = 0; k < inner; ++k) body();
      barrier();
      times.push_back((now_us() - from) / inner);
    }
    std::sort(times.begin(), times.end());
    return times[times.size() / 2];
  }

  char* memory(size_t bytes, bool shared) {
    void* data =
        shared ? node->heap().allocate(bytes)
               : mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    std::memset(data, 0, bytes);
    return static_cast<char*>(data);
  }
  void release(char* data, size_t bytes, bool shared) {
    if (shared) {
      node->heap().deallocate(data);
    } else {
      munmap(data, bytes);
    }
  }
};

// `traffic`: bytes read plus written by all ranks in units of one rank's `bytes`.
void report(const Bench& b, const char* name, size_t bytes, const char* place, double us,
            double traffic) {
  if (b.rank != 0) return;
  const double limit_us = traffic * static_cast<double>(bytes) / b.limit_gbs / 1e3;
  std::printf("%dr %-15s %9zu B %-8s %10.1f us %8.2f GB/s  limit %8.1f us, share %.2f\n", b.size,
              name, bytes, place, us, static_cast<double>(bytes) / us / 1e3, limit_us,
              limit_us / us);
  std::fflush(stdout);
}

void measure_limit(Bench& b) {
  constexpr size_t kBytes = 64 << 20;
  char* from = b.memory(kBytes, true);
  char* to = b.memory(kBytes, true);
  const double us = b.time(7, 1, [&] {
    stream_copy(to, from, kBytes);
    stream_fence();
  });
  b.limit_gbs = 2.0 * b.size * kBytes / us / 1e3;
  if (b.rank == 0) std::printf("%dr streaming copy: %.1f GB/s of traffic\n", b.size, b.limit_gbs);
  b.release(from, kBytes, true);
  b.release(to, kBytes, true);
}

void run_collective(Bench& b, const Collective& op, int repeats, int inner, const char* name,
                    size_t bytes, const char* place, double traffic) {
  const double us = b.time(repeats, inner, [&] {
    if (const Status s = b.group->run({&op, 1}, soon()); !s.ok()) {
      std::fprintf(stderr, "%s\n", s.to_string().c_str());
      _exit(1);
    }
  });
  report(b, name, bytes, place, us, traffic);
}

void bench_size(Bench& b, size_t bytes, bool shared, const std::string& only) {
  const char* place = shared ? "shared" : "private";
  const bool quick = std::getenv("QUICK") != nullptr;
  const int repeats = quick ? 3 : 7;
  const int inner = bytes <= 65536 ? 200 : bytes <= (4 << 20) ? 10 : 1;
  const auto n = static_cast<size_t>(b.size);
  char* in = b.memory(bytes * n, shared);
  char* out = b.memory(bytes * n, shared);
  const size_t count = bytes / 4;
  const auto spans = [&](char* data) {
    std::vector<Span> list;
    for (size_t r = 0; r < n; ++r) list.push_back({data + r * bytes, count});
    return list;
  };
  const auto want = [&](const char* name) {
    return only.empty() || std::string(name).find(only) != std::string::npos;
  };
  Collective op;
  op.dtype = DType::kF32;
  const double dn = b.size;
  if (want("all_reduce")) {
    op.kind = OpKind::kAllReduce;
    op.in = {{in, count}};
    op.out = {{in, count}};
    run_collective(b, op, repeats, inner, "all_reduce", bytes, place, 2 * dn);
  }
  if (want("all_gather")) {
    op.kind = OpKind::kAllGather;
    op.in = {{in, count}};
    op.out = spans(out);
    run_collective(b, op, repeats, inner, "all_gather", bytes, place, dn * (1 + dn));
  }
  if (want("reduce_scatter")) {
    op.kind = OpKind::kReduceScatter;
    op.in = spans(in);
    op.out = {{out, count}};
    run_collective(b, op, repeats, inner, "reduce_scatter", bytes, place, dn * (1 + dn));
  }
  if (want("all_to_all")) {
    op.kind = OpKind::kAllToAll;
    op.in = spans(in);
    op.out = spans(out);
    run_collective(b, op, repeats, inner, "all_to_all", bytes, place, 2 * dn * dn);
  }
  if (want("broadcast")) {
    op.kind = OpKind::kBroadcast;
    op.in = {};
    op.out = {{out, count}};
    run_collective(b, op, repeats, inner, "broadcast", bytes, place, dn);
  }
  if (want("send_recv")) {  // to the next rank, from the one before
    const double us = b.time(repeats, inner, [&] {
      const int next = (b.rank + 1) % b.size, before = (b.rank + b.size - 1) % b.size;
      auto receive = b.group->post_recv(out, bytes, before, 0).value();
      auto send = b.group->post_send(in, bytes, next, 0).value();
      if (!send->wait(soon()).ok() || !receive->wait(soon()).ok()) _exit(1);
    });
    report(b, "send_recv", bytes, place, us, 2 * dn);
  }
  if (want("ping_pong") && n >= 2) {  // ranks 0 and 1, there and back
    const double us = b.time(repeats, inner, [&] {
      for (const int sender : {0, 1}) {
        if (b.rank > 1) continue;
        auto t = b.rank == sender ? b.group->post_send(in, bytes, 1 - b.rank, 1)
                                  : b.group->post_recv(out, bytes, 1 - b.rank, 1);
        if (!t.value()->wait(soon()).ok()) _exit(1);
      }
    });
    report(b, "ping_pong", bytes, place, us, 4);
  }
  b.release(in, bytes * n, shared);
  b.release(out, bytes * n, shared);
}

int rank_main(int rank, int size, const std::string& folder, const std::vector<size_t>& sizes,
              const std::string& only) {
  Bench b;
  b.node = Node::create({}).value();
  testing::FileStore store(folder);
  GroupOptions options;
  options.name = "bench";
  b.group = Group::create(b.node, store, rank, size, options).value();
  b.rank = rank;
  b.size = size;
  if (std::getenv("PIN") != nullptr) {
    cpu_set_t core;
    CPU_ZERO(&core);
    CPU_SET(rank % sysconf(_SC_NPROCESSORS_ONLN), &core);
    sched_setaffinity(0, sizeof core, &core);
  }
  measure_limit(b);
  if (only.empty() || only == "barrier") {
    const double us = b.time(5, 500, [&] { b.barrier(); });
    if (rank == 0) std::printf("%dr barrier %.2f us\n", size, us);
  }
  for (const size_t bytes : sizes) {
    for (const bool shared : {true, false}) {
      const char* place = std::getenv("PLACE");
      if (place == nullptr || (std::strcmp(place, "shared") == 0) == shared) {
        bench_size(b, bytes, shared, only);
      }
    }
  }
  return 0;
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<int> ranks;
  for (int i = 1; i < argc; ++i) ranks.push_back(std::atoi(argv[i]));
  if (ranks.empty()) ranks = {2, 4, 8};
  std::vector<size_t> sizes = {64, 4096, 65536, 1 << 20, 8 << 20, 64 << 20};
  if (const char* text = std::getenv("SIZES")) {
    sizes.clear();
    std::istringstream in(text);
    for (size_t s; in >> s;) sizes.push_back(s);
  }
  const std::string only = std::getenv("ONLY") != nullptr ? std::getenv("ONLY") : "";
  for (const int n : ranks) {
    const TempFolder folder;
    std::fflush(stdout);
    for (int r = 0; r < n; ++r) {
      if (fork() == 0) _exit(rank_main(r, n, folder.path(), sizes, only));
    }
    bool well = true;
    for (int r = 0; r < n; ++r) {
      int status = 0;
      wait(&status);
      well = well && status == 0;
    }
    if (!well) return 1;
  }
  return 0;
}
