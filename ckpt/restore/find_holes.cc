// A load of all tensors, planned and not carried out.
#include "ckpt/restore/load_plan.h"
#include <convoy/ckpt/restore.h>

#include <algorithm>
#include <utility>

namespace convoy::ckpt {
namespace {

// Plans point into their destinations; nobody reads or writes there.
std::byte* nowhere() {
  return reinterpret_cast<std::byte*>(uintptr_t{4096});  // NOLINT(performance-no-int-to-ptr)
}

StateTensor whole(const TensorInfo& info) {
  StateTensor tensor{info, {}};
  if (std::ranges::find(info.shape, 0) != info.shape.end()) return tensor;
  StateBox box{std::vector<int64_t>(info.shape.size(), 0), info.shape, nowhere(),
               std::vector<int64_t>(info.shape.size(), 1)};
  for (size_t d = info.shape.size(); d > 1; --d) {
    box.strides[d - 2] = box.strides[d - 1] * info.shape[d - 1];
  }
  tensor.boxes.push_back(std::move(box));
  return tensor;
}

}  // namespace

Result<std::vector<MissingTensor>> find_holes(StepSource& source) {
  State wanted;
  for (const TensorEntry& tensor : source.commit().tensors) wanted.push_back(whole(tensor.info));
  PartHomes homes(source, {});
  const LoadOptions options;
  LoadReport report;
  const Result<LoadPlan> plan = plan_load(homes, wanted, options, report);
  if (!plan.ok() && plan.status().code() != Code::kNotFound) return plan.status();
  return std::move(report.missing);
}

}  // namespace convoy::ckpt
