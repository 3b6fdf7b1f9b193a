#pragma once

#include <convoy/trace/event.h>

#include <cstdint>

namespace convoy::trace {

// What a small job of ranks on two hosts did, made up: pipeline stages of two (pp), tensor pairs
// (tp) within them, and replicas (dp) outermost, whose gradient all-reduces run beside the backward
// passes. The second host's clock is ahead by kAhead. Events come as agents tell them: batches of
// half a step, spans within a step before it.
struct SmallJob {
  static constexpr int64_t kStart = 1'700'000'000'000'000'000;  // on the root's clock
  static constexpr int64_t kAhead = 3'000'000'000;
  uint32_t replicas = 2;  // of four ranks
  uint32_t steps = 4;
  uint32_t micro_batches = 4;
  double slow = 1;       // backward passes take so many times as long
  double slow_last = 1;  // those of the last stage, on top
  bool kernels = false;  // work on the GPU is recorded
  bool hangs = false;    // the last all-reduce does not complete, nor its step
  uint64_t seed = 1;

  uint32_t world_size() const { return 4 * replicas; }
  void play(Registry& registry, Sink& to) const;
};

}  // namespace convoy::trace
