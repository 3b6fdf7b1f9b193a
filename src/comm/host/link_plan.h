#pragma once

#include <convoy/comm/host/collective.h>

#include <cstddef>
#include <memory>
#include <span>
#include <vector>

namespace convoy::host {

inline constexpr int kNoStep = -1;

// Bytes that go to one peer in order with the others of their stream.
struct SendItem {
  const char* data = nullptr;
  size_t bytes = 0;
  int after = kNoStep;    // held back until this step is done
  int informs = kNoStep;  // counted by this step once the kernel has taken all of it
};

// Bytes that come from one peer.
struct RecvItem {
  char* data = nullptr;
  size_t bytes = 0;
  int after = kNoStep;    // not read before this step is done (its memory is still in use)
  int informs = kNoStep;  // counted by this step once it is here
};

// Something to compute when `waiting` items are done; or just the moment itself (sources empty).
struct ReduceStep {
  int waiting = 0;
  bool done = false;
  size_t op = 0;  // which collective: dtype, reduction, factors
  char* target = nullptr;
  size_t count = 0;
  std::vector<const void*> sources;  // by rank
};

struct LocalCopy {
  const void* from;
  void* to;
  size_t bytes;
};

// What one rank sends to and receives from each peer on each stream, in order, for a list of
// collectives. A pure function of the requests and the memory: both ends of a stream derive the
// same list of sizes, so the bytes travel without headers.
struct LinkPlan {
  struct Lane {  // one stream to one peer
    std::vector<SendItem> sends;
    std::vector<RecvItem> recvs;
  };
  std::vector<std::vector<Lane>> lanes;  // [peer][stream]; that of the rank itself stays empty
  std::vector<ReduceStep> steps;
  std::vector<LocalCopy> copies;  // to be made before the first step runs
};

// Memory between two steps, kept from operation to operation by the caller.
class Scratch {
 public:
  // At least `bytes`, 64-byte aligned; what was reserved before in the same operation stays.
  char* reserve(size_t bytes);
  // All of it may be reused; memory beyond `keep` bytes is given back.
  void reset();

 private:
  struct Free {
    void operator()(char* data) const;
  };
  struct Block {
    std::unique_ptr<char, Free> data;
    size_t bytes = 0;
    bool used = false;
  };
  std::vector<Block> blocks_;
};

struct PlanLimits {
  size_t chunk_bytes = 256 << 10;  // unit of pipelining and of striping
  size_t stripe_bytes = 64 << 10;  // smaller messages all go over stream 0
  size_t direct_bytes = 32 << 10;  // smaller reductions: everybody sends everything to everybody
  size_t window = 8;               // chunks of a reduction that may be under way
};

LinkPlan make_plan(std::span<const Collective> ops, int rank, int size, int streams,
                   const PlanLimits& limits, Scratch& scratch);

}  // namespace convoy::host
