// Translates tensors into the host engine's spans: which dtypes reduce, which travel as bytes, and
// when a tensor needs a contiguous stand-in.
#include "src/comm/c10d/operation.h"

#include <convoy/base/status.h>
#include <convoy/comm/allocator.h>

#include <ATen/core/LegacyTypeDispatch.h>
#include <c10/core/GradMode.h>
#include <c10/util/Exception.h>

#include <iterator>
#include <optional>
#include <string_view>

namespace convoy::comm {
namespace {

constexpr std::string_view kTitlePrefix = "convoy:";

std::optional<host::DType> engine_dtype(at::ScalarType dtype) {
  switch (dtype) {
    case at::kByte:
      return host::DType::kU8;
    case at::kChar:
      return host::DType::kI8;
    case at::kShort:
      return host::DType::kI16;
    case at::kInt:
      return host::DType::kI32;
    case at::kLong:
      return host::DType::kI64;
    case at::kHalf:
      return host::DType::kF16;
    case at::kBFloat16:
      return host::DType::kBF16;
    case at::kFloat:
      return host::DType::kF32;
    case at::kDouble:
      return host::DType::kF64;
    case at::kBool:
      return host::DType::kBool;
    case at::kComplexFloat:
      return host::DType::kC64;
    case at::kComplexDouble:
      return host::DType::kC128;
    default:
      return std::nullopt;
  }
}

host::ReduceOp engine_reduce(const c10d::ReduceOp& reduce, const std::string& name) {
  switch (reduce.op_) {
    case c10d::ReduceOp::SUM:
      return host::ReduceOp::kSum;
    case c10d::ReduceOp::AVG:
      return host::ReduceOp::kAvg;
    case c10d::ReduceOp::PRODUCT:
      return host::ReduceOp::kProduct;
    case c10d::ReduceOp::MIN:
      return host::ReduceOp::kMin;
    case c10d::ReduceOp::MAX:
      return host::ReduceOp::kMax;
    case c10d::ReduceOp::BAND:
      return host::ReduceOp::kBand;
    case c10d::ReduceOp::BOR:
      return host::ReduceOp::kBor;
    case c10d::ReduceOp::BXOR:
      return host::ReduceOp::kBxor;
    case c10d::ReduceOp::PREMUL_SUM:
      return host::ReduceOp::kPremulSum;
    default:
      TORCH_CHECK_VALUE(false, "convoy: ", name, ": this ReduceOp is not known");
  }
}

double premul_factor(const c10d::ReduceOp& reduce, const std::string& name) {
  if (reduce.op_ != c10d::ReduceOp::PREMUL_SUM) return 1.0;
  const auto* factor = dynamic_cast<const c10d::PreMulSumSupplement*>(reduce.supplement_.get());
  TORCH_CHECK_VALUE(factor != nullptr, "convoy: ", name,
                    ": PREMUL_SUM without its factor; make it with _make_nccl_premul_sum()");
  return factor->tensor_factor.defined() ? factor->tensor_factor.item<double>()
                                         : factor->double_factor;
}

}  // namespace

bool is_plain(const at::Tensor& tensor) {
  return tensor.is_contiguous() && !tensor.is_conj() && !tensor.is_neg();
}

void check_cpu(const at::Tensor& tensor, const std::string& name) {
  TORCH_CHECK_VALUE(tensor.defined(), "convoy: ", name, ": got an undefined tensor");
  TORCH_CHECK_VALUE(
      tensor.device().is_cpu(), "convoy: ", name, ": got a tensor on ", tensor.device(),
      "; the backend 'convoy' moves CPU tensors. For CUDA tensors initialise the group with "
      "'cpu:convoy,cuda:nccl'");
  TORCH_CHECK_VALUE(tensor.layout() == at::kStrided, "convoy: ", name, ": got a tensor of layout ",
                    tensor.layout(), "; only dense tensors are supported (call to_dense() first)");
}

at::Tensor shared_copy(const at::Tensor& tensor) {
  at::Tensor copy = empty_shared(tensor.sizes(), tensor.scalar_type());
  copy_values(copy, tensor);
  return copy;
}

void copy_values(const at::Tensor& to, const at::Tensor& from) {
  const c10::AutoGradMode no_grad(false);
  const at::AutoDispatchBelowADInplaceOrView below;
  to.copy_(from);
}

Operation::Operation(c10d::OpType type, const char* title)
    : type_(type), title_(title), name_(std::string_view(title).substr(kTitlePrefix.size())) {}

host::Collective& Operation::add(host::OpKind kind, at::ScalarType dtype) {
  const auto known = engine_dtype(dtype);
  dtype_ = dtype;
  factor_ = known ? 1 : c10::elementSize(dtype);
  host::Collective& collective = collectives_.emplace_back();
  collective.kind = kind;
  collective.dtype = known.value_or(host::DType::kU8);
  return collective;
}

host::Collective& Operation::add_reduction(host::OpKind kind, at::ScalarType dtype,
                                           const c10d::ReduceOp& reduce) {
  TORCH_CHECK_VALUE(engine_dtype(dtype).has_value(), "convoy: ", name_, ": tensors of dtype ",
                    dtype, " can be moved but not reduced; convert them first");
  host::Collective& collective = add(kind, dtype);
  collective.reduce = engine_reduce(reduce, name_);
  collective.premul = premul_factor(reduce, name_);
  return collective;
}

void Operation::check(const at::Tensor& tensor) const {
  check_cpu(tensor, name_);
  TORCH_CHECK_VALUE(tensor.scalar_type() == dtype_, "convoy: ", name_,
                    ": the tensors of one call must have one dtype, got ", dtype_, " and ",
                    tensor.scalar_type());
}

host::Span Operation::span_of(const at::Tensor& contiguous) const {
  return {const_cast<void*>(contiguous.const_data_ptr()),
          static_cast<size_t>(contiguous.numel()) * factor_};
}

host::Span Operation::source(const at::Tensor& tensor) {
  check(tensor);
  if (is_plain(tensor)) {
    kept_.push_back(tensor);
    return span_of(tensor);
  }
  kept_.push_back(shared_copy(tensor));
  return span_of(kept_.back());
}

host::Span Operation::target(const at::Tensor& tensor) {
  check(tensor);
  if (is_plain(tensor)) {
    kept_.push_back(tensor);
    return span_of(tensor);
  }
  copy_back_.emplace_back(tensor, empty_shared(tensor.sizes(), dtype_));
  return span_of(copy_back_.back().second);
}

host::Span Operation::in_place(const at::Tensor& tensor) {
  const host::Span span = target(tensor);
  if (is_plain(tensor)) return span;
  copy_values(copy_back_.back().second, tensor);
  return span;
}

host::Span Operation::part(host::Span whole, int64_t begin, int64_t count) const {
  if (count == 0) return {};
  const size_t bytes = static_cast<size_t>(begin) * c10::elementSize(dtype_);
  return {static_cast<char*>(whole.data) + bytes, static_cast<size_t>(count) * factor_};
}

void Operation::append(Operation other) {
  const auto move_all = [](auto& from, auto& to) {
    to.insert(to.end(), std::make_move_iterator(from.begin()), std::make_move_iterator(from.end()));
  };
  move_all(other.collectives_, collectives_);
  move_all(other.kept_, kept_);
  move_all(other.copy_back_, copy_back_);
  move_all(other.results_, results_);
}

void Operation::finish() {
  for (auto& [tensor, stand_in] : copy_back_) copy_values(tensor, stand_in);
  discard();
}

void Operation::discard() {
  kept_.clear();
  copy_back_.clear();
}

}  // namespace convoy::comm
