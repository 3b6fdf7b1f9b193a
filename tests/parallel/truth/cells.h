#pragma once

#include <string>
#include <vector>

namespace convoy::truth {

// One way to train the same model: a row of the sweep.
struct Cell {
  int tp = 1, pp = 1, dp = 1;
  std::string schedule = "1f1b";
  int chunks = 1;
  bool sequence_parallel = false;
  bool zero = false;
  int recompute = 0;  // 0 none, 1 selective, 2 full
  bool wide = true;   // float64, else float32
  bool dropout = false;
  bool tied = true;

  int ranks() const { return tp * pp * dp; }
  int stages() const { return pp * chunks; }
  std::string mesh() const;
  std::string name() const;
};

// Every factorisation of 1, 2, 4 and 8 ranks into tp × pp × dp, with every schedule, sequence
// parallel, ZeRO and recompute where they make a difference; in float64. Then variations of it:
// float32, dropout, untied embeddings. Cells of one mesh follow each other.
std::vector<Cell> all_cells();

}  // namespace convoy::truth
