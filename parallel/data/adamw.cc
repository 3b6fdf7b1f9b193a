// Which ranges of the buckets this rank updates, with which decay, and when the gathers start.
#include <convoy/base/check.h>
#include <convoy/parallel/data/adamw.h>
#include <convoy/parallel/data/adamw_kernel.h>

#include <ATen/ops/_fused_adamw.h>
#include <ATen/ops/full.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

namespace convoy::data {
namespace {

// Elements [begin, end) of a bucket.
struct Range {
  int64_t begin = 0;
  int64_t end = 0;
};

Range owned(const FlatBuckets& buckets, const Bucket& bucket) {
  if (!buckets.sharded()) return {0, bucket.params.numel()};
  return {bucket.shard_begin, bucket.shard_begin + bucket.shard_count};
}

// What an update reads and writes, element for element. `master` as in AdamW's state.
struct Operands {
  at::Tensor param, master, grad, m, v;
};

template <class T>
T* ptr(const at::Tensor& tensor) {
  return tensor.mutable_data_ptr<T>();
}

void update_on_host(const Operands& o, const AdamWStep& step) {
  const auto count = static_cast<size_t>(o.grad.numel());
  if (o.master.defined()) {
    adamw_update_bf16(reinterpret_cast<uint16_t*>(ptr<at::BFloat16>(o.param)), ptr<float>(o.master),
                      ptr<float>(o.grad), ptr<float>(o.m), ptr<float>(o.v), count, step);
  } else if (o.param.scalar_type() == at::kDouble) {
    adamw_update(ptr<double>(o.param), ptr<double>(o.grad), ptr<double>(o.m), ptr<double>(o.v),
                 count, step);
  } else {
    adamw_update(ptr<float>(o.param), ptr<float>(o.grad), ptr<float>(o.m), ptr<float>(o.v), count,
                 step);
  }
}

// torch's own fused kernel. It divides gradients by its scale, and leaves them divided.
void update_on_device(const Operands& o, const AdamWStep& step, int64_t steps) {
  const at::Tensor& target = o.master.defined() ? o.master : o.param;
  const auto number = target.options().dtype(at::kFloat).requires_grad(false);
  std::optional<at::Tensor> scale;
  if (step.grad_scale != 1) scale = at::full({}, 1 / step.grad_scale, number);
  at::_fused_adamw_({target.detach()}, {o.grad}, {o.m}, {o.v}, {},
                    {at::full({}, static_cast<double>(steps), number)}, step.lr, step.beta1,
                    step.beta2, step.weight_decay, step.eps, /*amsgrad=*/false,
                    /*maximize=*/false, scale, {});
  if (o.master.defined()) o.param.copy_(o.master);
}

}  // namespace

AdamW::AdamW(FlatBuckets& buckets, const AdamWOptions& options)
    : buckets_(buckets), options_(options) {
  for (const Bucket& bucket : buckets.buckets()) {
    const Range range = owned(buckets, bucket);
    const int64_t count = range.end - range.begin;
    Moments state{
        at::zeros({count}, bucket.grads.options()), at::zeros({count}, bucket.grads.options()), {}};
    CONVOY_CHECK(bucket.params.scalar_type() == bucket.grads.scalar_type() ||
                     bucket.params.scalar_type() == at::kBFloat16,
                 "master weights are kept for bfloat16 parameters only");
    moments_.push_back(std::move(state));
  }
}

void AdamW::take_masters() {
  if (std::exchange(has_masters_, true)) return;
  for (size_t b = 0; b < moments_.size(); ++b) {
    const Bucket& bucket = buckets_.buckets()[b];
    if (bucket.params.scalar_type() == bucket.grads.scalar_type()) continue;
    const Range range = owned(buckets_, bucket);
    moments_[b].master = bucket.params.narrow(0, range.begin, range.end - range.begin)
                             .to(bucket.grads.scalar_type());
  }
}

comm::Pending AdamW::start_gather(const Bucket& bucket) const {
  return buckets_.groups().dp.start_all_gather_into(
      bucket.params, bucket.params.narrow(0, bucket.shard_begin, bucket.shard_count));
}

std::vector<AdamW::BucketState> AdamW::state() {
  take_masters();
  std::vector<BucketState> out;
  for (size_t b = 0; b < moments_.size(); ++b) {
    const Moments& state = moments_[b];
    const Bucket& bucket = buckets_.buckets()[b];
    const Range range = owned(buckets_, bucket);
    out.push_back({range.begin,
                   state.master.defined()
                       ? state.master
                       : bucket.params.narrow(0, range.begin, range.end - range.begin),
                   state.m, state.v});
  }
  return out;
}

void AdamW::restored(int64_t steps) {
  steps_ = steps;
  std::vector<comm::Pending> gathers;
  const std::vector<BucketState> states = state();
  for (size_t b = 0; b < states.size(); ++b) {
    const BucketState& state = states[b];
    const Bucket& bucket = buckets_.buckets()[b];
    if (state.weights.scalar_type() != bucket.params.scalar_type()) {
      bucket.params.narrow(0, state.begin, state.weights.numel()).copy_(state.weights);
    }
    if (buckets_.sharded()) gathers.push_back(start_gather(bucket));
  }
  for (comm::Pending& gather : gathers) gather.wait();
}

void AdamW::step(double lr, double grad_scale) {
  take_masters();
  ++steps_;
  AdamWStep step{.lr = lr,
                 .beta1 = options_.beta1,
                 .beta2 = options_.beta2,
                 .eps = options_.eps,
                 .bias1 = 1 - std::pow(options_.beta1, static_cast<double>(steps_)),
                 .bias2 = 1 - std::pow(options_.beta2, static_cast<double>(steps_)),
                 .grad_scale = grad_scale};
  std::vector<comm::Pending> gathers;
  for (size_t b = 0; b < moments_.size(); ++b) {
    const Bucket& bucket = buckets_.buckets()[b];
    const Moments& state = moments_[b];
    const Range range = owned(buckets_, bucket);
    // Neighbours that decay alike are one range; padding between them holds zeros and stays zero.
    size_t slot = 0;
    while (slot < bucket.slots.size()) {
      const auto decays = [&](size_t s) { return buckets_.params()[bucket.slots[s].param].decay; };
      size_t last = slot;
      while (last + 1 < bucket.slots.size() && decays(last + 1) == decays(slot)) ++last;
      const int64_t begin = std::max(range.begin, bucket.slots[slot].offset);
      const int64_t end = std::min(range.end, bucket.slots[last].offset + bucket.slots[last].count);
      step.weight_decay = decays(slot) ? options_.weight_decay : 0;
      slot = last + 1;
      if (begin >= end) continue;
      const auto part = [&](const at::Tensor& whole, int64_t from) {
        return whole.defined() ? whole.narrow(0, from, end - begin) : whole;
      };
      const int64_t mine = begin - range.begin;
      const Operands operands{part(bucket.params, begin), part(state.master, mine),
                              part(bucket.grads, begin), part(state.m, mine), part(state.v, mine)};
      if (bucket.params.is_cpu()) {
        update_on_host(operands, step);
      } else {
        update_on_device(operands, step, steps_);
      }
    }
    if (buckets_.sharded()) gathers.push_back(start_gather(bucket));
  }
  for (comm::Pending& gather : gathers) gather.wait();
}

int64_t AdamW::state_bytes() const {
  int64_t bytes = 0;
  for (const Moments& state : moments_) {
    bytes += static_cast<int64_t>(state.m.nbytes() + state.v.nbytes());
    if (state.master.defined()) bytes += static_cast<int64_t>(state.master.nbytes());
  }
  return bytes;
}

double clip_scale(double norm, double max_norm) {
  // The small number is torch's clip_grad_norm_'s, so that both give the same factor.
  return max_norm > 0 ? std::min(1.0, max_norm / (norm + 1e-6)) : 1.0;
}

}  // namespace convoy::data
