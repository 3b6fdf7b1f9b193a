#pragma once

#include "tests/parallel/truth/cells.h"
#include <convoy/comm/mesh_groups.h>

#include <ATen/core/Tensor.h>

#include <string>
#include <vector>

namespace convoy::truth {

// The worst error of a cell and where it is, in units of its bound.
struct Worst {
  double ratio = 0;
  double error = 0;
  std::string where;

  void see(double this_error, double bound, const std::string& what);
};

// What a run leaves, for comparing bits.
struct Trace {
  std::vector<double> numbers;  // loss and gradient norm of each step
  std::vector<at::Tensor> tensors;

  bool same_bits(const Trace& other) const;
};

// Trains a cell for kSteps steps on `groups`, which must be of its mesh, and compares this rank's
// part of everything with reference_of(). A collective.
Worst compare(const Cell& cell, comm::MeshGroups& groups, Trace* trace);

}  // namespace convoy::truth
