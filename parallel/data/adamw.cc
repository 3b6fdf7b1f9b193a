// Which ranges of the buckets this rank updates, with which decay, and when the gathers start.
#include <convoy/base/check.h>
#include <convoy/parallel/data/adamw.h>
#include <convoy/parallel/data/adamw_kernel.h>

#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>

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

template <class T>
T* at_offset(const at::Tensor& tensor, int64_t offset) {
  return tensor.mutable_data_ptr<T>() + offset;
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
  for (size_t b = 0; b < moments_.size(); ++b) {
    const Bucket& bucket = buckets_.buckets()[b];
    if (bucket.params.scalar_type() == bucket.grads.scalar_type()) continue;
    const Range range = owned(buckets_, bucket);
    moments_[b].master = bucket.params.narrow(0, range.begin, range.end - range.begin)
                             .to(bucket.grads.scalar_type());
  }
}

void AdamW::step(double lr, double grad_scale) {
  if (steps_ == 0) take_masters();
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
      const int64_t mine = begin - range.begin;
      const auto count = static_cast<size_t>(end - begin);
      if (state.master.defined()) {
        adamw_update_bf16(
            reinterpret_cast<uint16_t*>(at_offset<at::BFloat16>(bucket.params, begin)),
            at_offset<float>(state.master, mine), at_offset<float>(bucket.grads, begin),
            at_offset<float>(state.m, mine), at_offset<float>(state.v, mine), count, step);
      } else if (bucket.params.scalar_type() == at::kDouble) {
        adamw_update(at_offset<double>(bucket.params, begin),
                     at_offset<double>(bucket.grads, begin), at_offset<double>(state.m, mine),
                     at_offset<double>(state.v, mine), count, step);
      } else {
        adamw_update(at_offset<float>(bucket.params, begin), at_offset<float>(bucket.grads, begin),
                     at_offset<float>(state.m, mine), at_offset<float>(state.v, mine), count, step);
      }
    }
    if (buckets_.sharded()) {
      gathers.push_back(buckets_.groups().dp.start_all_gather_into(
          bucket.params, bucket.params.narrow(0, bucket.shard_begin, bucket.shard_count)));
    }
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
