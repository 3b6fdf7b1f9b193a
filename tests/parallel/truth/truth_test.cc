// The truth sweep: however the model is cut over tp × pp × dp ranks, with whatever schedule,
// sequence parallel, ZeRO and recompute, training it is the same computation. 8 ranks start once
// and walk over all cells (cells.h); each cell trains 3 steps and compares loss, gradient norm,
// every parameter's gradient in every step, and every parameter at the end with a one-process
// reference (reference.h). Errors are L2 norms of the difference over the L2 norm of the whole
// reference tensor.
//
// float64: 1e-10.
// float32: with u = 2^-24, two computations of the same sums in different order differ by at most
// 2 C u relatively, where C is the number of roundings along the longest chain from the tokens to
// the gradient: per layer, forward and twice in backward, the inner lengths of its products; then
// the sum over the vocabulary and over all tokens (Higham, Accuracy and Stability, §3.1; first
// order in u). An AdamW update is lr * m / (sqrt(v) + eps), whose slope in the gradient is at most
// 2 / eps; so n steps move parameters apart by at most n * 2 lr / eps times the gradients'
// difference, plus 4 roundings of the parameter a step.
//
// Also: repeated runs are the same bits (gradients and parameters), all ranks know the same loss
// and norm bit for bit, ZeRO gives the same bits as none; and three deliberate faults (a bucket
// that is not reduced, a partial sum and a tied sum that are left out) are each detected.
//
// Not checked: speed, bfloat16, several machines.
#include "tests/parallel/truth/cells.h"
#include "tests/parallel/truth/ranks.h"
#include "tests/parallel/truth/reference.h"
#include <convoy/base/fault.h>
#include <convoy/comm/allocator.h>

#include <ATen/Functions.h>
#include <ATen/Parallel.h>
#include <torch/csrc/distributed/c10d/PrefixStore.hpp>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace convoy::truth {
namespace {

constexpr double kWideBound = 1e-10;
constexpr double kUnit = 0x1p-24;  // half a unit in float32's last place

// The worst error of a cell and where it is, in units of its bound.
struct Worst {
  double ratio = 0;
  double error = 0;
  std::string where;

  void see(double this_error, double bound, const std::string& what) {
    // A NaN must not compare as small.
    const double this_ratio = std::isfinite(this_error) ? this_error / bound : 1e300;
    if (this_ratio <= ratio) return;
    ratio = this_ratio;
    error = this_error;
    where = what;
  }
};

double gradient_bound(const runtime::TrainerOptions& o) {
  if (o.llama.dtype == at::kDouble) return kWideBound;
  const model::LlamaConfig& c = o.model;
  const auto layer = 5 * c.hidden + c.ffn + c.head_dim() + c.seq;
  const auto chain = 3 * c.layers * layer + c.vocab + o.batch * c.seq;
  return 2 * static_cast<double>(chain) * kUnit;
}

double parameter_bound(const runtime::TrainerOptions& o, double grad_norm, double param_norm) {
  if (o.llama.dtype == at::kDouble) return kWideBound;
  const double slope = 2 * o.lr.peak / o.adamw.eps;
  return kSteps * (slope * gradient_bound(o) * grad_norm / param_norm + 4 * kUnit);
}

// The part of a full tensor that this rank holds.
at::Tensor part_of(const at::Tensor& full, const parallel::Parameter& p) {
  at::Tensor out = at::empty_like(p.value, full.options());
  for (const parallel::HeldRun& run : p.runs) {
    out.narrow(p.shard_dim, run.local, run.size)
        .copy_(full.narrow(p.shard_dim, run.global, run.size));
  }
  return out;
}

double error_of(const at::Tensor& mine, const at::Tensor& full, const parallel::Parameter& p) {
  const at::Tensor difference = mine.to(at::kDouble) - part_of(full.to(at::kDouble), p);
  return difference.norm().item<double>() / (full.to(at::kDouble).norm().item<double>() + 1e-300);
}

double relative(double mine, double wanted) {
  return std::abs(mine - wanted) / std::abs(wanted);
}

// What a run leaves, for comparing bits.
struct Trace {
  std::vector<double> numbers;
  std::vector<at::Tensor> tensors;

  bool same_bits(const Trace& other) const {
    if (numbers != other.numbers || tensors.size() != other.tensors.size()) return false;
    for (size_t i = 0; i < tensors.size(); ++i) {
      if (!at::equal(tensors[i], other.tensors[i])) return false;
    }
    return true;
  }
};

class Sweep {
 public:
  Sweep(int rank, const c10::intrusive_ptr<c10d::Store>& store) : rank_(rank), store_(store) {}

  // Whether all cells of this rank are right.
  bool run(const std::string& filter);

 private:
  comm::MeshGroups& groups(const Cell& cell);
  Worst compare(const Cell& cell, Trace* trace);
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

Worst Sweep::compare(const Cell& cell, Trace* trace) {
  const runtime::TrainerOptions options = options_of(cell);
  const Reference& want = reference_of(cell);
  runtime::Trainer trainer(options, groups(cell));
  const int dp_rank = groups(cell).group({"dp"}).rank();
  const int64_t rows = trainer.rows_per_rank();
  const double bound = gradient_bound(options);
  Worst worst;
  for (int step = 0; step < kSteps; ++step) {
    runtime::StepResult result =
        trainer.gradients(batch_of(options, step).narrow(0, dp_rank * rows, rows));
    const auto s = static_cast<size_t>(step);
    const std::string at_step = ", step " + std::to_string(step);
    worst.see(relative(result.loss, want.loss[s]), bound, "loss" + at_step);
    worst.see(relative(result.grad_norm, want.norm[s]), bound, "gradient norm" + at_step);
    trace->numbers.insert(trace->numbers.end(), {result.loss, result.grad_norm});
    for (const auto& chunk : trainer.chunks()) {
      for (const parallel::ParameterPtr& p : chunk->parameters()) {
        worst.see(error_of(p->grad, want.grads[s].at(p->name), *p), bound,
                  "gradient of " + p->name + at_step);
        trace->tensors.push_back(p->grad.clone());
      }
    }
    trainer.update(result);
  }
  for (const auto& chunk : trainer.chunks()) {
    for (const parallel::ParameterPtr& p : chunk->parameters()) {
      const at::Tensor& full = want.params.at(p->name);
      const double grad_norm = want.grads[0].at(p->name).norm().item<double>();
      worst.see(error_of(p->data(), full, *p),
                parameter_bound(options, grad_norm, full.norm().item<double>()),
                "parameter " + p->name + " after " + std::to_string(kSteps) + " steps");
      trace->tensors.push_back(p->data().clone());
    }
  }
  return worst;
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
  const Worst worst = compare(cell, &trace);
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
    compare(other, &again);
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
    const Worst worst = compare(cell, &trace);
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
