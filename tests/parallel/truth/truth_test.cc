// The truth sweep: however the model is cut over tp × pp × dp ranks, with whatever schedule,
// sequence parallel, ZeRO and recompute, training it is the same computation. 8 ranks start once
// and walk over all cells (cells.h); each cell trains 3 steps and compares loss, gradient norm,
// every parameter's gradient in every step, and every parameter at the end with a one-process
// reference (compare.cc, which derives the bounds of the errors).
//
// Also: repeated runs are the same bits (gradients and parameters), all ranks know the same loss
// and norm bit for bit, ZeRO gives the same bits as none; and three deliberate faults (a bucket
// that is not reduced, a partial sum and a tied sum that are left out) are each detected.
//
// Not checked: speed, bfloat16, several machines.
#include "tests/parallel/truth/compare.h"
#include "tests/parallel/truth/ranks.h"
#include "tests/parallel/truth/reference.h"
#include <convoy/base/fault.h>
#include <convoy/comm/allocator.h>

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <cstdio>
#include <map>
#include <memory>

namespace convoy::truth {
namespace {

class Sweep {
 public:
  Sweep(int rank, const c10::intrusive_ptr<c10d::Store>& store) : rank_(rank), store_(store) {}

  // Whether all cells of this rank are right.
  bool run(const std::string& filter);

 private:
  comm::MeshGroups& groups(const Cell& cell);
  bool check(const Cell& cell);
  bool check_faults();
  bool agree(comm::MeshGroups& groups, bool good, double ratio, double* worst_ratio);

  int rank_;
  c10::intrusive_ptr<c10d::Store> store_;
  std::map<std::string, std::unique_ptr<comm::MeshGroups>> groups_;
};

// Ranks beyond a cell's repeat it on their own copy of its mesh, so that none waits for the others.
comm::MeshGroups& Sweep::groups(const Cell& cell) {
  std::unique_ptr<comm::MeshGroups>& kept = groups_[cell.mesh()];
  if (!kept) {
    const std::string copy = cell.mesh() + "/" + std::to_string(rank_ / cell.ranks());
    comm::MeshGroupsOptions options;
    options.timeout = std::chrono::seconds(120);
    options.prefix = copy + "/";
    kept = std::make_unique<comm::MeshGroups>(
        Mesh::parse(cell.mesh(), cell.ranks()).value(), rank_ % cell.ranks(),
        c10::make_intrusive<c10d::PrefixStore>(copy, store_), options);
  }
  return *kept;
}

// Whether all ranks of the mesh found everything good, and the worst ratio among them.
bool Sweep::agree(comm::MeshGroups& groups, bool good, double ratio, double* worst_ratio) {
  const at::Tensor seen = at::tensor({good ? 0.0 : 1.0, ratio}, at::kDouble);
  groups.world().all_reduce_(seen, c10d::ReduceOp::MAX);
  *worst_ratio = seen[1].item<double>();
  return seen[0].item<double>() == 0;
}

bool Sweep::check(const Cell& cell) {
  Trace trace;
  const Worst worst = compare(cell, groups(cell), &trace);
  bool good = worst.ratio <= 1;
  if (!good) {
    std::fprintf(stderr, "WRONG %s: %s is off by %.3g (%.3g of its bound), seen by rank %d\n",
                 cell.name().c_str(), worst.where.c_str(), worst.error, worst.ratio, rank_);
  }
  if (cell.recompute == 0) {
    // The same again, and with ZeRO switched: bit for bit.
    Cell other = cell;
    other.zero = cell.dp > 1 && !cell.zero;
    Trace again;
    compare(other, groups(cell), &again);
    if (!again.same_bits(trace)) {
      std::fprintf(stderr, "WRONG %s: %s gives other bits, seen by rank %d\n", cell.name().c_str(),
                   other.zero == cell.zero ? "the same run again" : "the other ZeRO mode", rank_);
      good = false;
    }
  }
  // What every rank was told must be the same number, not just a close one.
  comm::Group world = groups(cell).world();
  at::Tensor told = at::tensor(trace.numbers, at::kDouble);
  world.broadcast_(told, 0);
  if (!at::equal(told, at::tensor(trace.numbers, at::kDouble))) {
    std::fprintf(stderr, "WRONG %s: rank %d was told another loss or norm than rank 0\n",
                 cell.name().c_str(), rank_);
    good = false;
  }
  double ratio = 0;
  good = agree(groups(cell), good, worst.ratio, &ratio);
  if (rank_ == 0) {
    std::printf("%-60s %s  %.2g of its bound\n", cell.name().c_str(), good ? "ok   " : "WRONG",
                ratio);
    std::fflush(stdout);
  }
  return good;
}

// A sweep that can't fail proves nothing: leave out one sum on purpose and see it fail.
bool Sweep::check_faults() {
  bool good = true;
  for (const char* point : {"data.reduce", "data.sum_partial", "data.sum_tied"}) {
    const Cell cell{.tp = 2, .pp = 2, .dp = 2, .sequence_parallel = true};
    fault::arm(point);
    Trace trace;
    const Worst worst = compare(cell, groups(cell), &trace);
    fault::arm("");
    double ratio = 0;
    agree(groups(cell), true, worst.ratio, &ratio);
    const bool detected = ratio > 1;
    good = good && detected;
    if (rank_ == 0) {
      std::printf("%-60s %s  %.2g of its bound\n", (std::string("fault ") + point).c_str(),
                  detected ? "found" : "MISSED", ratio);
    }
  }
  return good;
}

bool Sweep::run(const std::string& filter) {
  bool good = true;
  int cells = 0;
  for (const Cell& cell : all_cells()) {
    if (cell.name().find(filter) == std::string::npos) continue;
    good = check(cell) && good;
    ++cells;
  }
  if (filter.empty() || filter == "fault") good = check_faults() && good;
  if (rank_ == 0) std::printf("%d cells, %s\n", cells, good ? "all right" : "some WRONG");
  return good;
}

bool sweep(int rank, const c10::intrusive_ptr<c10d::Store>& store, const std::string& filter) {
  at::set_num_threads(1);
  const comm::SharedTensors shared;
  return Sweep(rank, store).run(filter);
}

}  // namespace
}  // namespace convoy::truth

// truth_test [TEXT]: only the cells whose name contains TEXT.
int main(int argc, char** argv) {
  const std::string filter = argc > 1 ? argv[1] : "";
  return convoy::truth::run_ranks(
      8, [&](int rank, const auto& store) { return convoy::truth::sweep(rank, store, filter); });
}
