#pragma once

#include <convoy/ckpt/state.h>

#include <cstdint>
#include <string>
#include <vector>

namespace convoy::ckpt {

// A training state whose every element follows from (step, place), so that whatever is read back
// can be compared bit for bit by who knows the step alone. Rank `rank` of `ranks` holds its rows of
// two matrices (one that changes with every step, one in which each row changes every fourth step,
// for incremental saves), bytes of its own, and, if it is rank 0, the step's number.
class KnownState {
 public:
  // `rows` of 1,024 elements in each matrix, all ranks together.
  KnownState(int64_t rows, uint32_t rank, uint32_t ranks);
  KnownState(const KnownState&) = delete;
  KnownState& operator=(const KnownState&) = delete;

  const State& state() const { return state_; }
  void fill(uint64_t step);
  // What makes it another state than that of `step`; empty: nothing.
  std::string difference(uint64_t step) const;

 private:
  struct Tensor {
    std::string name;
    std::vector<uint32_t> data;
  };
  uint32_t expected(const Tensor& tensor, size_t i, uint64_t step) const;

  const uint32_t rank_;
  int64_t first_row_ = 0;
  std::vector<Tensor> tensors_;
  State state_;
};

}  // namespace convoy::ckpt
