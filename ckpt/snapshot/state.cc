// How boxes become runs of bytes: inner dimensions that lie densely are one run, the next one is
// its count and stride, what is further out is a run each.
#include <convoy/ckpt/state.h>

#include <algorithm>
#include <numeric>
#include <set>

namespace convoy::ckpt {
namespace {

Status wrong(const TensorInfo& info, const std::string& text) {
  return {Code::kInvalidArgument, "tensor " + info.name + ": " + text};
}

Status check_box(const TensorInfo& info, const StateBox& box) {
  const size_t dims = info.shape.size();
  if (box.begin.size() != dims || box.extent.size() != dims || box.strides.size() != dims) {
    return wrong(info, "a box must have as many dimensions as the tensor, " + std::to_string(dims));
  }
  for (size_t d = 0; d < dims; ++d) {
    if (box.begin[d] >= 0 && box.extent[d] >= 1 && box.extent[d] <= info.shape[d] - box.begin[d])
      continue;
    return wrong(info, "a box of " + std::to_string(box.extent[d]) + " from " +
                           std::to_string(box.begin[d]) + " is not in dimension " +
                           std::to_string(d) + ", which is " + std::to_string(info.shape[d]));
  }
  return box.data != nullptr ? ok_status() : wrong(info, "a box has no memory");
}

// Appends the box's runs.
void add_runs(const StateBox& box, int64_t element, std::vector<SourceRun>& runs) {
  size_t d = box.extent.size();
  int64_t dense = 1;  // elements
  while (d > 0 && (box.strides[d - 1] == dense || box.extent[d - 1] == 1)) {
    dense *= box.extent[--d];
  }
  SourceRun run{box.data, static_cast<size_t>(dense * element)};
  if (d > 0) {
    --d;
    run.count = static_cast<size_t>(box.extent[d]);
    run.stride = static_cast<ptrdiff_t>(box.strides[d] * element);
  }
  std::vector<int64_t> index(d, 0);
  for (;;) {
    int64_t offset = 0;
    for (size_t i = 0; i < d; ++i) offset += index[i] * box.strides[i];
    runs.push_back(run);
    runs.back().data = box.data + offset * element;
    size_t i = d;
    while (i > 0 && ++index[i - 1] == box.extent[i - 1]) index[--i] = 0;
    if (i == 0) return;
  }
}

}  // namespace

int64_t StateBox::elements() const {
  return std::accumulate(extent.begin(), extent.end(), int64_t{1}, std::multiplies<>());
}

Status check(const State& state) {
  std::set<std::string_view> names;
  for (const StateTensor& tensor : state) {
    if (!names.insert(tensor.info.name).second) {
      return wrong(tensor.info, "is there twice; give all its boxes at once");
    }
    for (const StateBox& box : tensor.boxes) {
      CONVOY_RETURN_IF_ERROR(check_box(tensor.info, box));
    }
  }
  return ok_status();
}

Result<StreamLayout> lay_out(const State& state) {
  CONVOY_RETURN_IF_ERROR(check(state));
  std::vector<const StateTensor*> order;
  for (const StateTensor& tensor : state) order.push_back(&tensor);
  std::stable_sort(order.begin(), order.end(), [](const auto* a, const auto* b) {
    return dtype_bytes(a->info.dtype) > dtype_bytes(b->info.dtype);
  });
  StreamLayout layout;
  for (const StateTensor* tensor : order) {
    const auto index = static_cast<uint32_t>(layout.tensors.size());
    const int64_t element = dtype_bytes(tensor->info.dtype);
    layout.tensors.push_back(tensor->info);
    for (const StateBox& box : tensor->boxes) {
      layout.stream.pieces.push_back({index, box.begin, box.extent, layout.stream.bytes});
      add_runs(box, element, layout.runs);
      layout.stream.bytes += static_cast<uint64_t>(box.elements() * element);
    }
  }
  return layout;
}

}  // namespace convoy::ckpt
