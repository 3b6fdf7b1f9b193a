// Translates between two modules that don't know each other: parallel/tensor's parameters and
// parallel/data's.
#include <convoy/runtime/describe.h>

#include <functional>
#include <utility>

namespace convoy::runtime {
namespace {

// The elements of the local shard whose runs this rank owns.
std::vector<data::Elements> owned_elements(const parallel::Parameter& p) {
  const at::IntArrayRef shape = p.value.sizes();
  const auto dim = static_cast<size_t>(p.shard_dim);
  int64_t outer = 1, inner = 1;
  for (size_t d = 0; d < shape.size(); ++d) (d < dim ? outer : inner) *= d == dim ? 1 : shape[d];
  std::vector<data::Elements> out;
  for (int64_t row = 0; row < outer; ++row) {
    for (const parallel::HeldRun& run : p.runs) {
      if (!run.owned || run.size == 0) continue;
      const int64_t begin = (row * shape[dim] + run.local) * inner;
      const int64_t count = run.size * inner;
      if (!out.empty() && out.back().begin + out.back().count == begin) {
        out.back().count += count;
      } else {
        out.push_back({begin, count});
      }
    }
  }
  return out;
}

}  // namespace

data::Param describe(const parallel::ParameterPtr& parameter, const PipelinePlace& place) {
  data::Param out;
  out.name = parameter->name;
  out.value = parameter->value;
  out.decay = parameter->weight_decay;
  out.chunk = place.chunk;
  out.uses = parameter->uses;
  if (!place.second_copy) out.counted = owned_elements(*parameter);
  if (parameter->partial_rows.length > 0) {
    out.extra_sum = data::ExtraSum::kTensorParallel;
  } else if (parameter->shared_embedding && place.split) {
    out.extra_sum = data::ExtraSum::kTied;
  }
  out.attach = [parameter](const at::Tensor& grad, std::function<void()> added) {
    parameter->clear_grad();
    parameter->grad = grad;
    parameter->on_grad = [added = std::move(added)](parallel::Parameter&) { added(); };
  };
  out.clear = [parameter] { parameter->clear_grad(); };
  return out;
}

}  // namespace convoy::runtime
