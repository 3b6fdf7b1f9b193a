// Decides the layout of the flat buckets (which parameters share one, in which order) and when
// their reductions start. What the optimizer does with the result is adamw.cc's. Fault points, each
// of which leaves out one sum: data.reduce, data.sum_partial, data.sum_tied.
#include <convoy/base/check.h>
#include <convoy/base/fault.h>
#include <convoy/parallel/data/adamw_kernel.h>
#include <convoy/parallel/data/flat_buckets.h>

#include <ATen/ops/_foreach_norm.h>
#include <ATen/ops/empty_like.h>
#include <ATen/ops/stack.h>
#include <ATen/ops/zeros.h>
#include <torch/csrc/autograd/function_hook.h>
#include <torch/csrc/autograd/variable.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <map>

namespace convoy::data {
namespace {

// Every parameter begins on a cache line, in float32 and in float64; so does every shard.
constexpr int64_t kAlignElements = 16;

int64_t round_up(int64_t value, int64_t unit) {
  return (value + unit - 1) / unit * unit;
}

bool narrow_type(at::ScalarType type) {
  return type == at::kBFloat16 || type == at::kHalf;
}

// Whether a parameter's gradient is complete only after FlatBuckets::finish() has summed it over
// tp.
bool late(const Param& param) {
  return param.extra_sum == ExtraSum::kTensorParallel;
}

// The order in which buckets are expected to fill: chunks from the last to the first, as backward
// passes go, in a chunk from the last registered to the first, the tied embedding at its very end.
// Late parameters of all chunks come last, together.
std::vector<size_t> backward_order(const std::vector<Param>& params) {
  std::vector<size_t> order(params.size());
  for (size_t i = 0; i < order.size(); ++i) order[i] = params.size() - 1 - i;
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (late(params[a]) != late(params[b])) return late(params[b]);
    if (params[a].chunk != params[b].chunk) return params[a].chunk > params[b].chunk;
    return params[a].extra_sum < params[b].extra_sum;
  });
  return order;
}

double shard_squares(const Bucket& bucket, int64_t begin, int64_t end) {
  const auto count = static_cast<size_t>(end - begin);
  if (bucket.grads.scalar_type() == at::kDouble) {
    return sum_of_squares(bucket.grads.const_data_ptr<double>() + begin, count);
  }
  return sum_of_squares(bucket.grads.const_data_ptr<float>() + begin, count);
}

// Of all parts at once, so that the host waits for the device once.
double device_squares(const std::vector<at::Tensor>& parts) {
  return at::stack(at::_foreach_norm(parts, 2, at::kDouble)).square().sum().item<double>();
}

}  // namespace

struct FlatBuckets::State {
  // What a reduction in this step has come to.
  struct Progress {
    int missing = 0;  // additions until the bucket's gradients are complete
    comm::Pending pending;
  };

  std::vector<Param> params;
  ReductionGroups groups;
  bool sharded = false;
  std::vector<Bucket> buckets;
  std::vector<size_t> bucket_of;  // by parameter
  std::vector<Progress> progress;
  std::vector<bool> touched;  // by parameter: a gradient was added in this step
  std::map<int, bool> armed;  // by chunk
  std::function<void()> sum_partial;
  size_t next = 0;  // buckets before it have started
  int overlapped = 0;

  void lay_out(int64_t bucket_bytes);
  void allocate(Bucket& bucket);
  // The part of this data-parallel rank. All have equal ones of memory that is sharded.
  void cut(Bucket& bucket) const;
  void added(size_t param);
  void start(size_t bucket);
  void sum_tied();
  at::Tensor grad_view(const Bucket& bucket, const Slot& slot) const {
    return bucket.grads.narrow(0, slot.offset, slot.count).view(params[slot.param].value.sizes());
  }
};

namespace {

// Calls back when autograd has added to a leaf's .grad.
struct AddedHook final : torch::autograd::PostAccumulateGradHook {
  explicit AddedHook(std::function<void()> call) : call(std::move(call)) {}
  void operator()(const torch::autograd::Variable& /*leaf*/) override { call(); }
  std::function<void()> call;
};

}  // namespace

Param autograd_param(std::string name, const at::Tensor& leaf) {
  Param param;
  param.name = std::move(name);
  param.value = leaf;
  param.counted = {{0, leaf.numel()}};
  param.attach = [leaf](const at::Tensor& grad, std::function<void()> added) {
    if (grad.scalar_type() != leaf.scalar_type()) leaf.set_grad_dtype(grad.scalar_type());
    leaf.mutable_grad() = grad;
    torch::autograd::impl::set_post_acc_grad_hooks(leaf,
                                                   std::make_unique<AddedHook>(std::move(added)));
  };
  param.clear = [leaf] { leaf.grad().zero_(); };
  return param;
}

void FlatBuckets::State::lay_out(int64_t bucket_bytes) {
  bucket_of.resize(params.size());
  int64_t size = 0;
  for (const size_t i : backward_order(params)) {
    const Param& p = params[i];
    const int64_t bytes = p.value.element_size();
    const bool fits = !buckets.empty() && (late(p) || buckets.back().chunk == p.chunk) &&
                      buckets.back().extra_sum == p.extra_sum &&
                      (size + p.value.numel()) * bytes <= bucket_bytes;
    if (!fits) {
      Bucket& bucket = buckets.emplace_back();
      bucket.chunk = p.chunk;
      bucket.extra_sum = p.extra_sum;
      size = 0;
    }
    buckets.back().slots.push_back({i, size, p.value.numel()});
    bucket_of[i] = buckets.size() - 1;
    size = round_up(size + p.value.numel(), kAlignElements);
  }
}

void FlatBuckets::State::allocate(Bucket& bucket) {
  const Slot& last = bucket.slots.back();
  const int64_t parts = sharded ? groups.dp.size() : 1;
  const int64_t size = round_up(last.offset + last.count, parts * kAlignElements);
  const at::Tensor& first = params[last.param].value;
  const at::ScalarType grad_type =
      narrow_type(first.scalar_type()) ? at::kFloat : first.scalar_type();
  bucket.params = at::zeros({size}, first.options().requires_grad(false));
  bucket.grads = at::zeros({size}, first.options().dtype(grad_type).requires_grad(false));
  cut(bucket);
  for (const Slot& slot : bucket.slots) {
    const at::Tensor& value = params[slot.param].value;
    const at::Tensor data = bucket.params.narrow(0, slot.offset, slot.count).view(value.sizes());
    data.copy_(value.detach());
    value.set_data(data);
  }
}

void FlatBuckets::State::cut(Bucket& bucket) const {
  const int64_t size = bucket.params.numel(), parts = groups.dp.size();
  const int64_t part = round_up((size + parts - 1) / parts, kAlignElements);
  bucket.shard_begin = std::min(size, part * groups.dp.rank());
  bucket.shard_count = std::min(part, size - bucket.shard_begin);
}

void FlatBuckets::State::added(size_t param) {
  touched[param] = true;
  if (!armed[params[param].chunk]) return;
  Progress& mine = progress[bucket_of[param]];
  CONVOY_CHECK(mine.missing > 0, params[param].name +
                                     " was used more often than announced in the " +
                                     "last backward pass of its chunk");
  --mine.missing;
  // In bucket order only: the ranks of the group must start the same collectives in the same order.
  while (next < buckets.size() && progress[next].missing == 0 &&
         buckets[next].extra_sum != ExtraSum::kTensorParallel) {
    start(next++);
    ++overlapped;
  }
}

void FlatBuckets::State::start(size_t index) {
  Bucket& bucket = buckets[index];
  Progress& mine = progress[index];
  if (groups.dp.alone() || fault::strikes("data.reduce")) return;
  if (sharded) {
    const at::Tensor shard = bucket.grads.narrow(0, bucket.shard_begin, bucket.shard_count);
    mine.pending = groups.dp.start_reduce_scatter_into(shard, bucket.grads);
  } else {
    mine.pending = groups.dp.start_all_reduce_(bucket.grads);
  }
}

// Both stages add the other's gradient to their own. The sum of two numbers does not depend on
// their order, so the copies stay equal bit for bit.
void FlatBuckets::State::sum_tied() {
  for (const Bucket& bucket : buckets) {
    if (bucket.extra_sum != ExtraSum::kTied) continue;
    const at::Tensor mine =
        sharded ? bucket.grads.narrow(0, bucket.shard_begin, bucket.shard_count) : bucket.grads;
    const at::Tensor other = at::empty_like(mine);
    const comm::Message messages[] = {{false, other, groups.tied_peer},
                                      {true, mine, groups.tied_peer}};
    for (comm::Pending& message : groups.pp.start_exchange(messages)) message.wait();
    mine.add_(other);
  }
}

FlatBuckets::FlatBuckets(std::vector<Param> params, ReductionGroups groups,
                         const BucketOptions& options)
    : state_(std::make_shared<State>()) {
  State& s = *state_;
  s.params = std::move(params);
  s.groups = std::move(groups);
  s.sharded = options.sharded && !s.groups.dp.alone();
  for (const Param& p : s.params) {
    CONVOY_CHECK(p.value.is_leaf() && p.value.requires_grad(),
                 p.name + " is not a leaf that requires a gradient");
    CONVOY_CHECK(p.value.scalar_type() == s.params[0].value.scalar_type(),
                 p.name + " has another type than the parameters before it");
  }
  s.lay_out(options.bucket_bytes);
  for (Bucket& bucket : s.buckets) s.allocate(bucket);
  s.progress.resize(s.buckets.size());
  s.sum_partial = options.sum_partial;
  s.touched.resize(s.params.size());
  for (const Bucket& bucket : s.buckets) {
    for (const Slot& slot : bucket.slots) {
      const size_t i = slot.param;
      const std::weak_ptr<State> weak = state_;
      s.params[i].attach(s.grad_view(bucket, slot), [weak, i] {
        if (const auto state = weak.lock()) state->added(i);
      });
    }
  }
}

FlatBuckets::~FlatBuckets() {
  // A reduction that an error left behind still owns the bucket's memory through its Pending.
  state_.reset();
}

void FlatBuckets::begin_step() {
  State& s = *state_;
  for (size_t b = 0; b < s.buckets.size(); ++b) {
    s.progress[b] = {};
    for (const Slot& slot : s.buckets[b].slots) {
      s.progress[b].missing += s.params[slot.param].uses;
      s.params[slot.param].clear();
      s.touched[slot.param] = false;
    }
  }
  s.armed.clear();
  s.next = 0;
  s.overlapped = 0;
}

void FlatBuckets::arm(int chunk) {
  state_->armed[chunk] = true;
}

void FlatBuckets::finish() {
  State& s = *state_;
  for (const Bucket& bucket : s.buckets) {
    for (const Slot& slot : bucket.slots) {
      if (!s.touched[slot.param]) s.grad_view(bucket, slot).zero_();
    }
  }
  if (s.sum_partial && !fault::strikes("data.sum_partial")) s.sum_partial();
  while (s.next < s.buckets.size()) s.start(s.next++);
  for (State::Progress& p : s.progress) p.pending.wait();
  if (s.groups.tied_peer >= 0 && !fault::strikes("data.sum_tied")) s.sum_tied();
}

double FlatBuckets::grad_norm(std::vector<double>* also) const {
  const State& s = *state_;
  std::vector<double> sums = {0};
  std::vector<at::Tensor> on_device;
  for (const Bucket& bucket : s.buckets) {
    const int64_t shard_end = bucket.shard_begin + bucket.shard_count;
    for (const Slot& slot : bucket.slots) {
      for (const Elements& part : s.params[slot.param].counted) {
        const int64_t begin = std::max(slot.offset + part.begin, bucket.shard_begin);
        const int64_t end = std::min(slot.offset + part.begin + part.count, shard_end);
        if (begin >= end) continue;
        if (bucket.grads.is_cpu()) {
          sums[0] += shard_squares(bucket, begin, end);
        } else {
          on_device.push_back(bucket.grads.narrow(0, begin, end - begin));
        }
      }
    }
  }
  if (!on_device.empty()) sums[0] += device_squares(on_device);
  if (also) sums.insert(sums.end(), also->begin(), also->end());
  s.groups.world.all_reduce_numbers(sums);
  if (also) std::copy(sums.begin() + 1, sums.end(), also->begin());
  return std::sqrt(sums[0]);
}

void FlatBuckets::connect() {
  State& s = *state_;
  CONVOY_CHECK(!s.sharded, "what is sharded stays with the number of ranks that it was cut for");
  for (Bucket& bucket : s.buckets) s.cut(bucket);
}

void FlatBuckets::gather_grads() {
  State& s = *state_;
  if (!s.sharded) return;
  for (const Bucket& bucket : s.buckets) {
    s.groups.dp.all_gather_into(bucket.grads,
                                bucket.grads.narrow(0, bucket.shard_begin, bucket.shard_count));
  }
}

bool FlatBuckets::sharded() const {
  return state_->sharded;
}
const std::vector<Param>& FlatBuckets::params() const {
  return state_->params;
}
const std::vector<Bucket>& FlatBuckets::buckets() const {
  return state_->buckets;
}
const ReductionGroups& FlatBuckets::groups() const {
  return state_->groups;
}
int FlatBuckets::overlapped() const {
  return state_->overlapped;
}

}  // namespace convoy::data
