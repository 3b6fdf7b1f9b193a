#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <vector>

// Where the time of a step goes, on one rank.
namespace convoy::trace {

// A step's time is cut into these; behind them come the kinds of groups, whose collectives the rank
// waits in.
enum class Phase : uint8_t {
  kCompute,
  kData,
  kPipeline,  // waiting for a neighbouring stage
  kOptimizer,
  kCheckpoint,
  kEvaluate,
  kPause,  // garbage collection
  kOther,
};
inline constexpr size_t kPhases = 8;
inline constexpr size_t kKinds = 8;  // of groups; the last one takes all that find no room
inline constexpr size_t kParts = kPhases + kKinds;
using Parts = std::array<float, kParts>;  // µs
extern const std::array<const char*, kPhases> kPhaseNames;

// What a stretch of time is, for the split.
enum class Stretch : uint8_t {
  kForward,  // forward or backward: computation, and blocking collectives
  kData,
  kAwait,
  kReduce,  // gradients
  kOptimizer,
  kCheckpoint,
  kEvaluate,
  kPause,
  kKernel,  // on the GPU, on any thread
  kCollective,
  kMessage,
};

struct Interval {
  int64_t begin = 0, end = 0;
  Stretch stretch = Stretch::kForward;
  uint8_t kind = 0;       // of the group, of collectives
  uint32_t thread = 0;    // of spans
  bool blocking = false;  // collectives: forward and backward stand still in it
};

// Splits the time from `begin` to `end`. Where the GPU's kernels are known, whatever they don't
// cover is exposed; else a collective counts within forward and backward only if it is a blocking
// one (gradients are reduced beside the computation), and outside of them always.
// `intervals` is sorted by begin.
Parts split(int64_t begin, int64_t end, const std::vector<Interval>& intervals);

}  // namespace convoy::trace
