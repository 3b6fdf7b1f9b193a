// The one-process side of the truth sweep.
#include "tests/parallel/truth/reference.h"

#include "tests/model/reference_llama.h"

#include <ATen/Functions.h>

#include <cmath>

namespace convoy::truth {
namespace {

constexpr int64_t kBatch = 24;  // over dp = 8 ranks: 3 sequences each
constexpr int64_t kSequence = 13;

using Tensors = std::map<std::string, at::Tensor>;

Tensors copies(const runtime::Trainer& trainer, bool of_grads) {
  Tensors out;
  for (const parallel::ParameterPtr& p : trainer.chunks()[0]->parameters()) {
    out[p->name] = (of_grads ? p->grad : p->data()).clone();
  }
  return out;
}

// The same model on one rank, without anything that a mesh adds.
runtime::TrainerOptions alone(const Cell& cell) {
  Cell one;
  one.wide = cell.wide;
  one.dropout = cell.dropout;
  one.tied = cell.tied;
  runtime::TrainerOptions options = options_of(one);
  options.model = options_of(cell).model;
  options.microbatches = 1;
  return options;
}

Reference by_trainer(const runtime::TrainerOptions& options) {
  comm::MeshGroups groups(Mesh(), 0, {});
  runtime::Trainer trainer(options, groups);
  Reference out;
  for (int step = 0; step < kSteps; ++step) {
    runtime::StepResult result = trainer.gradients(batch_of(options, step));
    out.loss.push_back(result.loss);
    out.norm.push_back(result.grad_norm);
    out.grads.push_back(copies(trainer, true));
    trainer.update(result);
  }
  out.params = copies(trainer, false);
  return out;
}

// AdamW from its paper, on full tensors.
struct TextbookAdamW {
  const data::AdamWOptions& options;
  Tensors m, v;

  void update(Tensors& weights, const Tensors& grads, double lr, double scale, int t) {
    for (auto& [name, w] : weights) {
      const at::Tensor g = grads.at(name) * scale;
      if (t == 1) m[name] = at::zeros_like(g), v[name] = at::zeros_like(g);
      m[name] = options.beta1 * m[name] + (1 - options.beta1) * g;
      v[name] = options.beta2 * v[name] + (1 - options.beta2) * g * g;
      const at::Tensor m_hat = m[name] / (1 - std::pow(options.beta1, t));
      const at::Tensor v_hat = v[name] / (1 - std::pow(options.beta2, t));
      // Norm weights, the only vectors here, don't decay.
      const double decay = w.dim() > 1 ? options.weight_decay : 0;
      w = w * (1 - lr * decay) - lr * m_hat / (v_hat.sqrt() + options.eps);
    }
  }
};

Reference by_textbook(const runtime::TrainerOptions& options) {
  comm::MeshGroups groups(Mesh(), 0, {});
  Tensors weights = copies(runtime::Trainer(options, groups), false);
  TextbookAdamW optimizer{options.adamw, {}, {}};
  Reference out;
  for (int step = 0; step < kSteps; ++step) {
    const at::Tensor batch = batch_of(options, step);
    const auto result = model::reference::run(options.model, weights, batch.narrow(1, 0, kSequence),
                                              batch.narrow(1, 1, kSequence),
                                              1.0 / static_cast<double>(kBatch * kSequence));
    double squares = 0;
    for (const auto& [name, g] : result.grads)
      squares += g.to(at::kDouble).pow(2).sum().item<double>();
    out.loss.push_back(result.loss.item<double>());
    out.norm.push_back(std::sqrt(squares));
    out.grads.push_back(result.grads);
    optimizer.update(weights, result.grads, options.lr.at(step),
                     data::clip_scale(out.norm.back(), options.clip), step + 1);
  }
  out.params = weights;
  return out;
}

}  // namespace

runtime::TrainerOptions options_of(const Cell& cell) {
  runtime::TrainerOptions o;
  o.model.layers = cell.stages() <= 4 ? 5 : cell.stages() + 1;
  o.model.heads = cell.tp == 8 ? 10 : 6;
  o.model.kv_heads = cell.tp == 8 ? 5 : 2;
  o.model.hidden = 4 * o.model.heads;
  o.model.ffn = 37;
  o.model.vocab = 67;
  o.model.seq = kSequence;
  o.model.tied = cell.tied;
  o.model.dropout = cell.dropout ? 0.1 : 0;
  // Large enough that activations and gradients are far from zero.
  o.model.init_std = 0.2;
  o.llama.dtype = cell.wide ? at::kDouble : at::kFloat;
  o.llama.seed = 42;
  o.llama.sequence_parallel = cell.sequence_parallel;
  o.llama.recompute = static_cast<model::Recompute>(cell.recompute);
  o.schedule = cell.schedule;
  o.chunks = cell.chunks;
  o.batch = kBatch;
  // 3 on dp = 8 and 4, else 6: odd, and not a multiple of the stages.
  o.microbatches = cell.dp >= 4 ? 3 : 6;
  o.zero = cell.zero;
  o.clip = 0.5;
  o.lr = {.peak = 1e-2, .floor = 1e-3, .warmup_steps = 2, .total_steps = 10};
  // float32: keeps the update a smooth function of the gradient (see the bound in truth_test.cc).
  o.adamw.eps = cell.wide ? 1e-8 : 1e-2;
  o.bucket_bytes = 4096;
  return o;
}

at::Tensor batch_of(const runtime::TrainerOptions& options, int step) {
  at::manual_seed(static_cast<uint64_t>(1000 + step));
  return at::randint(options.model.vocab, {options.batch, options.model.seq + 1}, at::kLong);
}

const Reference& reference_of(const Cell& cell) {
  static std::map<std::string, Reference> kept;
  const runtime::TrainerOptions options = alone(cell);
  const std::string key = std::to_string(options.model.layers) + "/" +
                          std::to_string(options.model.heads) + "/" + std::to_string(cell.wide) +
                          std::to_string(cell.dropout) + std::to_string(cell.tied);
  auto found = kept.find(key);
  if (found == kept.end()) {
    found = kept.emplace(key, cell.dropout ? by_trainer(options) : by_textbook(options)).first;
  }
  return found->second;
}

}  // namespace convoy::truth
