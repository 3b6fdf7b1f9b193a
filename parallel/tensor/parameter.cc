// What a parameter is on a rank: its runs of the full tensor, its gradient's accumulation, its
// initialisation by global element, and the sums that replicated parts need.
#include "parallel/tensor/autograd.h"
#include "parallel/tensor/kernels.h"
#include "parallel/tensor/threads.h"
#include <convoy/parallel/tensor/parameter.h>
#include <convoy/parallel/tensor/random.h>

#include <ATen/ops/addmm.h>
#include <ATen/ops/empty.h>
#include <ATen/ops/mm.h>
#include <ATen/ops/zeros.h>

#include <algorithm>
#include <cmath>
#include <numbers>

namespace convoy::parallel {
namespace {

// Number e of the standard normal distribution of a stream: Box-Muller on pairs of a block.
class Normals {
 public:
  explicit Normals(const RandomStream& stream) : stream_(stream) {}
  double at(uint64_t element) {
    if (element / 4 != block_) fill(element / 4);
    return values_[element % 4];
  }

 private:
  void fill(uint64_t block) {
    const auto bits = stream_.block(block);
    for (int pair = 0; pair < 2; ++pair) {
      const double u = (bits[2 * pair] + 0.5) * 0x1p-32;
      const double angle = 2 * std::numbers::pi * (bits[2 * pair + 1] * 0x1p-32);
      const double radius = std::sqrt(-2 * std::log(u));
      values_[2 * pair] = radius * std::cos(angle);
      values_[2 * pair + 1] = radius * std::sin(angle);
    }
    block_ = block;
  }

  RandomStream stream_;
  uint64_t block_ = ~uint64_t{0};
  double values_[4] = {};
};

int64_t product(const std::vector<int64_t>& shape, size_t begin, size_t end) {
  int64_t n = 1;
  for (size_t i = begin; i < end; ++i) n *= shape[i];
  return n;
}

// Calls f(global element, local element, count) for each contiguous run of the shard.
template <class F>
void for_each_run(const Parameter& p, const F& f) {
  const int64_t outer = product(p.full_shape(), 0, p.shard_dim);
  const int64_t inner = product(p.full_shape(), p.shard_dim + 1, p.full_shape().size());
  const int64_t full = p.full_shape()[p.shard_dim];
  const int64_t held = p.value.size(p.shard_dim);
  for (const HeldRun& run : p.runs)
    for (int64_t o = 0; o < outer; ++o)
      f((o * full + run.global) * inner, (o * held + run.local) * inner, run.size * inner);
}

// The overlap of a run with partial_rows, as (offset in partial_rows, local row, rows).
struct Overlap {
  int64_t offset, local, size;
};
Overlap overlap(const Parameter& p, const HeldRun& run) {
  const int64_t begin = std::max(run.global, p.partial_rows.begin);
  const int64_t end = std::min(run.global + run.size, p.partial_rows.begin + p.partial_rows.length);
  return {begin - p.partial_rows.begin, run.local + begin - run.global,
          std::max<int64_t>(0, end - begin)};
}

}  // namespace

std::vector<int64_t> even_sizes(int64_t total, int parts) {
  std::vector<int64_t> sizes;
  for (int i = 0; i < parts; ++i) sizes.push_back(even_chunk(total, parts, i).length);
  return sizes;
}

void Parameter::add_grad(const at::Tensor& g) {
  if (grad_empty)
    grad.copy_(g);
  else
    grad.add_(g);
  grad_empty = false;
  if (on_grad) on_grad(*this);
}

void Parameter::add_grad_product(const at::Tensor& a, const at::Tensor& b) {
  if (a.scalar_type() != grad.scalar_type()) return add_grad(at::mm(a, b));
  if (grad_empty)
    at::mm_out(grad, a, b);
  else
    at::addmm_out(grad, grad, a, b);
  grad_empty = false;
  if (on_grad) on_grad(*this);
}

void Parameter::add_grad_rows(const at::Tensor& rows, const at::Tensor& values) {
  if (grad_empty) grad.zero_();
  grad_empty = false;
  const at::Tensor from = values.contiguous();
  const int64_t width = from.size(1);
  if (has_kernel(grad) && from.scalar_type() == grad.scalar_type()) {
    const auto* row = rows.const_data_ptr<int64_t>();
    dispatch_real(grad, [&]<class T>(T) {
      for (int64_t i = 0; i < rows.numel(); ++i)
        if (row[i] >= 0)
          kernels::add_row(ptr<T>(from) + i * width, width, ptr<T>(grad) + row[i] * width);
    });
  } else {
    const at::Tensor held = rows.ge(0);
    grad.index_add_(0, rows.clamp_min(0), (from * held.unsqueeze(1)).to(grad.scalar_type()));
  }
  if (on_grad) on_grad(*this);
}

at::Tensor Parameter::tracked() const {
  at::Tensor out = value.variable_data();
  if (needs_graph({value}))
    record("parameter", {value}, {out}, [self = self_.lock()](const Tensors& grads) -> Tensors {
      if (grads[0].defined()) self->add_grad(grads[0]);
      return {at::Tensor()};
    });
  return out;
}

Parameter describe(std::string name, std::vector<int64_t> shape, const Placement& placement,
                   const comm::Group& tensor_group) {
  Parameter p;
  p.name = std::move(name);
  p.spec.shape = std::move(shape);
  p.spec.placements = {{"tp", placement}};
  p.shard_dim = placement.kind == Placement::Kind::kShard ? placement.dim : 0;
  const Mesh mesh = Mesh::create({{"tp", tensor_group.size()}}, tensor_group.size()).value();
  const Status ok = p.spec.check(mesh);
  TORCH_CHECK(ok.ok(), "parameter ", p.name, ": ", ok.message());
  for (const Piece& mine : p.spec.pieces(mesh, tensor_group.rank())) {
    const int64_t begin = mine.begin[p.shard_dim];
    const int64_t end = begin + mine.extent[p.shard_dim];
    const int64_t local = mine.offset / mine.strides[p.shard_dim];
    // What lower ranks hold too is always the beginning of a run: cuts are ascending.
    int64_t owned_from = begin;
    for (int r = 0; r < tensor_group.rank(); ++r)
      for (const Piece& other : p.spec.pieces(mesh, r)) {
        const int64_t other_end = other.begin[p.shard_dim] + other.extent[p.shard_dim];
        if (other.begin[p.shard_dim] < end && other_end > begin)
          owned_from = std::max(owned_from, std::min(end, other_end));
      }
    if (owned_from > begin) p.runs.push_back({begin, local, owned_from - begin, false});
    if (owned_from < end)
      p.runs.push_back({owned_from, local + owned_from - begin, end - owned_from, true});
  }
  return p;
}

ParameterPtr make_parameter(Parameter description, at::TensorOptions options) {
  auto p = std::make_shared<Parameter>(std::move(description));
  std::vector<int64_t> shape = p->full_shape();
  shape[p->shard_dim] = 0;
  for (const HeldRun& run : p->runs) shape[p->shard_dim] += run.size;
  p->value = at::empty(shape, options);
  p->spec.dtype_bytes = p->value.element_size();
  const bool narrow =
      p->value.scalar_type() == at::kBFloat16 || p->value.scalar_type() == at::kHalf;
  p->grad = at::empty(shape, narrow ? options.dtype(at::kFloat) : options);
  p->value.set_requires_grad(true);
  p->self_ = p;
  return p;
}

void init_normal(Parameter& parameter, uint64_t seed, double std) {
  at::NoGradGuard no_grad;
  const at::Tensor host =
      at::empty(parameter.value.sizes(), at::TensorOptions().dtype(at::kDouble));
  auto* out = host.mutable_data_ptr<double>();
  Normals normals(RandomStream(named_seed(seed, parameter.name), Purpose::kInit));
  for_each_run(parameter, [&](int64_t global, int64_t local, int64_t n) {
    for (int64_t i = 0; i < n; ++i) out[local + i] = std * normals.at(global + i);
  });
  parameter.value.copy_(host);
}

void init_constant(Parameter& parameter, double value) {
  at::NoGradGuard no_grad;
  parameter.value.fill_(value);
}

void load_full(Parameter& parameter, const at::Tensor& full) {
  at::NoGradGuard no_grad;
  TORCH_CHECK(full.sizes() == at::IntArrayRef(parameter.full_shape()), "load_full: parameter ",
              parameter.name, " has shape ", parameter.full_shape(), ", but the tensor given has ",
              full.sizes());
  for (const HeldRun& run : parameter.runs)
    parameter.value.narrow(parameter.shard_dim, run.local, run.size)
        .copy_(full.narrow(parameter.shard_dim, run.global, run.size));
}

at::Tensor gather_full(const Parameter& parameter, const at::Tensor& local,
                       const comm::Group& tensor_group) {
  at::NoGradGuard no_grad;
  at::Tensor full = at::zeros(parameter.full_shape(), local.options().requires_grad(false));
  for (const HeldRun& run : parameter.runs)
    if (run.owned)
      full.narrow(parameter.shard_dim, run.global, run.size)
          .copy_(local.narrow(parameter.shard_dim, run.local, run.size));
  tensor_group.all_reduce_(full);
  return full;
}

void sum_partial_gradients(const std::vector<ParameterPtr>& parameters,
                           const comm::Group& tensor_group) {
  if (tensor_group.alone()) return;
  at::NoGradGuard no_grad;
  int64_t total = 0;
  const Parameter* first = nullptr;
  for (const ParameterPtr& p : parameters) {
    if (p->partial_rows.length == 0) continue;
    if (first == nullptr) first = p.get();
    total += p->partial_rows.length * product(p->full_shape(), 1, p->full_shape().size());
  }
  if (total == 0) return;
  const at::Tensor flat = at::zeros({total}, first->grad.options());
  for (const bool back : {false, true}) {
    int64_t at = 0;
    for (const ParameterPtr& p : parameters) {
      if (p->partial_rows.length == 0) continue;
      const int64_t width = product(p->full_shape(), 1, p->full_shape().size());
      for (const HeldRun& run : p->runs) {
        const Overlap o = overlap(*p, run);
        if (o.size == 0) continue;
        const at::Tensor rows = p->grad.narrow(0, o.local, o.size).view({-1});
        const at::Tensor place = flat.narrow(0, at + o.offset * width, o.size * width);
        back ? rows.copy_(place) : place.copy_(rows);
      }
      at += p->partial_rows.length * width;
    }
    if (!back) tensor_group.all_reduce_(flat);
  }
}

double owned_square_sum(const Parameter& parameter) {
  at::NoGradGuard no_grad;
  double sum = 0;
  for (const HeldRun& run : parameter.runs) {
    if (!run.owned || run.size == 0) continue;
    const at::Tensor g = parameter.grad.narrow(parameter.shard_dim, run.local, run.size);
    const double norm = g.norm(2, at::kDouble).item<double>();
    sum += norm * norm;
  }
  return sum;
}

}  // namespace convoy::parallel
