// How far a rank's training is from the one-process run. Errors are L2 norms of the difference over
// the L2 norm of the whole reference tensor; their bounds are:
//
// float64: 1e-10.
// float32: with u = 2^-24, two computations of the same sums in different order differ by at most
// 2 C u relatively, where C is the number of roundings along the longest chain from the tokens to
// the gradient: per layer, forward and twice in backward, the inner lengths of its products; then
// the sum over the vocabulary and over all tokens (Higham, Accuracy and Stability, §3.1; first
// order in u). An AdamW update is lr * m / (sqrt(v) + eps), whose slope in the gradient is at most
// 2 / eps; so n steps move parameters apart by at most n * 2 lr / eps times the gradients'
// difference, plus 4 roundings of the parameter a step.
#include "tests/parallel/truth/compare.h"

#include "tests/parallel/truth/reference.h"

#include <ATen/Functions.h>

#include <cmath>

namespace convoy::truth {
namespace {

constexpr double kWideBound = 1e-10;
constexpr double kUnit = 0x1p-24;  // half a unit in float32's last place

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

}  // namespace

void Worst::see(double this_error, double bound, const std::string& what) {
  // A NaN must not compare as small.
  const double this_ratio = std::isfinite(this_error) ? this_error / bound : 1e300;
  if (this_ratio <= ratio) return;
  ratio = this_ratio;
  error = this_error;
  where = what;
}

bool Trace::same_bits(const Trace& other) const {
  if (numbers != other.numbers || tensors.size() != other.tensors.size()) return false;
  for (size_t i = 0; i < tensors.size(); ++i) {
    if (!at::equal(tensors[i], other.tensors[i])) return false;
  }
  return true;
}

Worst compare(const Cell& cell, comm::MeshGroups& groups, Trace* trace) {
  const runtime::TrainerOptions options = options_of(cell);
  const Reference& want = reference_of(cell);
  runtime::Trainer trainer(options, groups);
  const int dp_rank = groups.group({"dp"}).rank();
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

}  // namespace convoy::truth
