#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <vector>

// What is known of the newest steps: a table of ranks by steps.
namespace convoy::trace::slow {

// Where a rank's own time goes, waiting for others left out.
enum Part : uint8_t {
  kCompute,     // forward, backward and optimizer, less what they hold of the others and of waiting
  kData,        // reading samples
  kCheckpoint,  // what it keeps the training
  kGarbage,     // garbage collection
  kLaunch,      // handing work to the GPU
  kOther,       // in no span and no operation
  kParts
};

// One rank's step: from the end of the one before to its own. Times in ns.
struct RankStep {
  uint32_t step = 0;           // 0: not there
  bool lossy = false;          // records of it were lost
  bool special = false;        // an evaluation or a warm-up is in it, or a step was lost before it
  bool warm_up = false;        // the rank says so
  bool double_step = false;    // the step before it was lost: parts of both
  int64_t begin = 0, end = 0;  // on the host's clock
  std::array<float, kParts> part{};
  std::array<float, 2> halves{};  // of the computation: forward and backward, or every other kernel
  float waiting = 0;              // in operations that it waits for, and for a neighbouring stage
  float reducing = 0;             // in "reduce gradients"
  float inflicted = 0;  // what others waited for this rank, at collectives that it was last at
  float given = 0;      // bytes in all-to-alls
  float tokens = 0;
  float run_queue = 0;
  float waited_stage = 0;     // of `waiting`: for a neighbouring stage
  uint32_t computations = 0;  // forwards and backwards
  uint32_t operations = 0;    // that ended in it

  float length() const { return static_cast<float>(end - begin); }
};

class Window {
 public:
  // Keeps the newest `steps` of each rank.
  explicit Window(uint32_t steps) : steps_(steps) {}
  void resize(uint32_t ranks) { cells_.assign(size_t{ranks} * steps_, {}), ranks_ = ranks; }
  uint32_t ranks() const { return ranks_; }
  uint32_t steps() const { return steps_; }

  RankStep& slot(uint32_t rank, uint32_t step) { return cells_[index(rank, step)]; }
  // Null: not there (any more).
  const RankStep* find(uint32_t rank, uint32_t step) const {
    const RankStep& cell = cells_[index(rank, step)];
    return cell.step == step && step != 0 ? &cell : nullptr;
  }

 private:
  size_t index(uint32_t rank, uint32_t step) const { return size_t{rank} * steps_ + step % steps_; }

  uint32_t steps_, ranks_ = 0;
  std::vector<RankStep> cells_;
};

}  // namespace convoy::trace::slow
