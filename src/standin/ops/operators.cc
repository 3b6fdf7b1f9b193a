// Gives every operator that has a CUDA kernel CPU code instead: one boxed kernel over all of them.
// What an operator returns is allocated at once, on the shapes that its Meta kernel works out; the
// values are computed in stream order, by the CPU kernel on tensors that alias the same memory.
#include "src/standin/ops/call.h"
#include "src/standin/ops/extra.h"
#include "src/standin/ops/meta_kernels.h"
#include "src/standin/ops/out_variants.h"
#include "src/standin/standin.h"

#include <ATen/ATen.h>
#include <ATen/Context.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <algorithm>
#include <exception>
#include <functional>
#include <string>
#include <vector>

namespace convoy::standin {

at::Tensor host_alias(const at::Tensor& tensor) {
  if (!tensor.defined() || !tensor.is_cuda()) return tensor;
  void* data = standin_alias(tensor.const_data_ptr());
  at::Tensor alias =
      at::from_blob(data, tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU));
  if (tensor.is_conj()) alias._set_conj(true);
  if (tensor.is_neg()) alias._set_neg(true);
  return alias;
}

void add_ranges(const c10::IValue& value, bool write, std::vector<StandinRange>& ranges) {
  const auto add = [&](const at::Tensor& t) {
    if (!t.defined() || !t.is_cuda() || t.numel() == 0) return;
    // From the first to the last element, holes included.
    size_t last = 0;
    for (int64_t d = 0; d < t.dim(); ++d) {
      last += static_cast<size_t>((t.size(d) - 1) * t.stride(d));
    }
    ranges.push_back({t.const_data_ptr(), (last + 1) * t.element_size(), write ? 1 : 0});
  };
  if (value.isTensor()) add(value.toTensor());
  if (value.isTensorList()) {
    for (const at::Tensor& t : value.toTensorVector()) add(t);
  }
  if (value.isOptionalTensorList()) {
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector()) {
      if (t) add(*t);
    }
  }
}

namespace {

using c10::DispatchKey;
using c10::IValue;
using torch::jit::Stack;

at::Tensor meta(const at::Tensor& tensor) {
  if (!tensor.defined()) return tensor;
  const auto options = tensor.options().device(at::kMeta).pinned_memory(false);
  return at::empty_strided(tensor.sizes(), tensor.strides(), options);
}

using Change = std::function<at::Tensor(const at::Tensor&)>;

// The value with every tensor in it changed, and devices to `device`.
IValue changed(const IValue& value, const Change& change, at::DeviceType device) {
  if (value.isTensor()) return change(value.toTensor());
  if (value.isTensorList()) {
    c10::List<at::Tensor> list;
    for (const at::Tensor& t : value.toTensorVector()) list.push_back(change(t));
    return list;
  }
  if (value.isOptionalTensorList()) {
    c10::List<std::optional<at::Tensor>> list;
    for (const std::optional<at::Tensor>& t : value.toOptionalTensorVector()) {
      list.push_back(t ? std::optional<at::Tensor>(change(*t)) : std::nullopt);
    }
    return list;
  }
  if (value.isDevice() && value.toDevice().is_cuda()) return at::Device(device);
  if (value.isGenerator()) return IValue();  // the host's default one
  return value;
}

// What a stream's thread does for one call of an operator.
struct Call {
  c10::OperatorHandle op;
  Stack arguments;                  // on the host's aliases
  std::vector<at::Tensor> results;  // aliases of what the program got

  void run() {
    const c10::AutoGradMode no_grad(false);
    const at::AutoDispatchBelowADInplaceOrView below;
    try {
      Stack stack = arguments;
      const ExtraOperator* extra = extra_operator(op);
      const c10::OperatorHandle* out = has_all_results() ? out_variant(op) : nullptr;
      if (out != nullptr) {
        stack.insert(stack.end(), results.begin(), results.end());
        return out->callBoxed(stack);
      }
      if (extra != nullptr) {
        stack = extra->run(stack);
      } else {
        op.callBoxed(stack);
      }
      size_t next = 0;
      for (const IValue& value : stack) {
        if (value.isTensor()) {
          store(value.toTensor(), next++);
        } else if (value.isTensorList()) {
          for (const at::Tensor& t : value.toTensorVector()) store(t, next++);
        }
      }
    } catch (const std::exception& e) {
      standin_finding("operator failed", (toString(op.operator_name()) + ": " + e.what()).c_str());
    }
  }
  // A gradient that nobody asked for is undefined.
  bool has_all_results() const {
    return std::all_of(results.begin(), results.end(), [](const auto& r) { return r.defined(); });
  }
  void store(const at::Tensor& from, size_t index) {
    if (index >= results.size() || !results[index].defined() || !from.defined()) return;
    if (from.data_ptr() != results[index].data_ptr()) results[index].copy_(from);
  }
};

// The device that the operator runs on: its first tensor's, as in torch's own kernels.
std::optional<at::Device> device_of_call(const Stack& arguments) {
  for (const IValue& value : arguments) {
    if (value.isTensor() && value.toTensor().defined() && value.toTensor().is_cuda()) {
      return value.toTensor().device();
    }
    if (!value.isTensorList()) continue;
    for (const at::Tensor& t : value.toTensorVector()) {
      if (t.defined() && t.is_cuda()) return t.device();
    }
  }
  return std::nullopt;
}

void enqueue(const c10::OperatorHandle& op, const Stack& arguments, const Stack& results) {
  auto* call = new Call{op, {}, {}};
  std::vector<StandinRange> ranges;
  const auto& schema = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    call->arguments.push_back(changed(arguments[i], host_alias, at::kCPU));
    add_ranges(arguments[i], writes(schema[i]), ranges);
  }
  for (const IValue& value : results) {
    add_ranges(value, true, ranges);
    if (value.isTensor()) call->results.push_back(host_alias(value.toTensor()));
    if (value.isTensorList()) {
      for (const at::Tensor& t : value.toTensorVector()) call->results.push_back(host_alias(t));
    }
  }
  const std::string name = toString(op.operator_name());
  const StandinWork work{name.c_str(),
                         [](void* c) { static_cast<Call*>(c)->run(); },
                         [](void* c) { delete static_cast<Call*>(c); },
                         call,
                         ranges.data(),
                         ranges.size()};
  standin_enqueue(c10::cuda::getCurrentCUDAStream().stream(), &work);
}

// On the shapes of the Meta kernel; tensors that the operator was given to write to are returned as
// they are.
Stack allocate_results(const c10::OperatorHandle& op, const Stack& arguments) {
  Stack metas;
  for (const IValue& value : arguments) metas.push_back(changed(value, meta, at::kMeta));
  const Stack meta_arguments = metas;
  if (const ExtraOperator* extra = extra_operator(op)) {
    metas = extra->shapes(metas);
  } else {
    call_meta(op, metas);
  }
  const at::Device device(at::kCUDA, c10::cuda::current_device());
  const auto made = [&](const at::Tensor& shape) {
    if (!shape.defined()) return shape;
    for (size_t i = 0; i < meta_arguments.size(); ++i) {
      const bool given = meta_arguments[i].isTensor() && writes(op.schema().arguments()[i]) &&
                         meta_arguments[i].toTensor().is_same(shape);
      if (!given) continue;
      const at::Tensor& out = arguments[i].toTensor();
      if (out.sizes() != shape.sizes()) out.resize_(shape.sizes());
      return out;
    }
    return at::empty_strided(shape.sizes(), shape.strides(), shape.options().device(device));
  };
  Stack results;
  for (const IValue& value : metas) results.push_back(changed(value, made, at::kCUDA));
  return results;
}

Stack take_arguments(const c10::OperatorHandle& op, Stack* stack) {
  const size_t count = op.schema().arguments().size();
  Stack arguments(stack->end() - static_cast<std::ptrdiff_t>(count), stack->end());
  torch::jit::drop(*stack, count);
  return arguments;
}

// Results whose shapes only the values tell: the program waits for the stream.
struct CallAtOnce {
  c10::OperatorHandle op;
  Stack stack;  // arguments, then results
  std::exception_ptr error;

  void run() {
    const c10::AutoGradMode no_grad(false);
    const at::AutoDispatchBelowADInplaceOrView below;
    try {
      op.callBoxed(stack);
    } catch (...) {
      error = std::current_exception();  // for the program, which waits
    }
  }
};

// What the program gets for a result: its own tensor, where the operator wrote to that.
at::Tensor give_back(const at::Tensor& result, const Stack& given, const Stack& arguments) {
  if (!result.defined()) return result;
  for (size_t i = 0; i < given.size(); ++i) {
    if (!given[i].isTensor() || !given[i].toTensor().is_same(result)) continue;
    const at::Tensor& own = arguments[i].toTensor();
    if (standin_alias(own.const_data_ptr()) != result.const_data_ptr()) {  // an out tensor
      own.resize_(result.sizes()).copy_(result);
    }
    return own;
  }
  return result.to(at::kCUDA);
}

void run_at_once(const c10::OperatorHandle& op, const Stack& arguments, Stack* stack) {
  CallAtOnce call{op, {}, nullptr};
  std::vector<StandinRange> ranges;
  const auto& schema = op.schema().arguments();
  for (size_t i = 0; i < arguments.size(); ++i) {
    const bool is_out = schema[i].kwarg_only() && writes(schema[i]);  // may be resized
    const auto host = [&](const at::Tensor& t) {
      return is_out ? at::empty({0}, t.options().device(at::kCPU)) : host_alias(t);
    };
    call.stack.push_back(changed(arguments[i], host, at::kCPU));
    add_ranges(arguments[i], writes(schema[i]), ranges);
  }
  const Stack given = call.stack;
  const std::string name = toString(op.operator_name());
  const StandinWork work{name.c_str(),  [](void* c) { static_cast<CallAtOnce*>(c)->run(); },
                         nullptr,       &call,
                         ranges.data(), ranges.size()};
  const auto stream = c10::cuda::getCurrentCUDAStream();
  standin_enqueue(stream.stream(), &work);
  stream.synchronize();
  if (call.error) std::rethrow_exception(call.error);
  const auto returned = [&](const at::Tensor& t) { return give_back(t, given, arguments); };
  for (const IValue& value : call.stack) stack->push_back(changed(value, returned, at::kCUDA));
}

void at_once(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const Stack arguments = take_arguments(op, stack);
  const c10::cuda::OptionalCUDAGuard guard(device_of_call(arguments));
  const at::AutoDispatchBelowADInplaceOrView below;
  run_at_once(op, arguments, stack);
}

void on_stream(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack* stack) {
  const Stack arguments = take_arguments(op, stack);
  const c10::cuda::OptionalCUDAGuard guard(device_of_call(arguments));
  const at::AutoDispatchBelowADInplaceOrView below;
  Stack results;
  try {
    results = allocate_results(op, arguments);
  } catch (const std::exception&) {
    // No shapes without values (an index that is a mask), or wrong arguments: the CPU's text.
    return run_at_once(op, arguments, stack);
  }
  enqueue(op, arguments, results);
  stack->insert(stack->end(), results.begin(), results.end());
}

void refuse(const c10::OperatorHandle& op, c10::DispatchKeySet, Stack*) {
  const std::string text = toString(op.operator_name()) +
                           " was called; torch has no CPU code for it, so the stand-in has none, "
                           "and nothing was computed";
  standin_finding("unknown kernel", text.c_str());
  TORCH_CHECK_NOT_IMPLEMENTED(false, "convoy stand-in: ", text);
}

// Operators without a computation: allocation, views, and what moves bytes by the runtime's own
// copies.
bool stays(const c10::OperatorHandle& op) {
  const std::string& name = op.operator_name().name;
  static const char* const kept[] = {
      "aten::empty",         "aten::empty_strided", "aten::_local_scalar_dense",
      "aten::record_stream", "aten::is_pinned",     "aten::_pin_memory",
      "aten::resize_",       "aten::_copy_from",    "aten::_copy_from_and_resize"};
  if (std::find(std::begin(kept), std::end(kept), name) != std::end(kept)) return true;
  if (name.rfind("aten::", 0) != 0 || name.rfind("aten::set_", 0) == 0) return true;
  for (const c10::Argument& result : op.schema().returns()) {
    if (result.alias_info() != nullptr && !result.alias_info()->isWrite()) return true;  // a view
  }
  return false;
}

bool runs_on_cpu(const c10::OperatorHandle& op) {
  return op.hasKernelForDispatchKey(DispatchKey::CPU) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeImplicitAutograd) ||
         op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutogradNonFunctional);
}

c10::KernelFunction kernel_for(const c10::OperatorHandle& op) {
  using c10::KernelFunction;
  if (extra_operator(op) != nullptr) return KernelFunction::makeFromBoxedFunction<&on_stream>();
  if (!runs_on_cpu(op)) return KernelFunction::makeFromBoxedFunction<&refuse>();
  const bool has_shapes =
      has_meta(op) || op.hasKernelForDispatchKey(DispatchKey::CompositeExplicitAutograd);
  return has_shapes ? KernelFunction::makeFromBoxedFunction<&on_stream>()
                    : KernelFunction::makeFromBoxedFunction<&at_once>();
}

// On a GPU these choose among libraries and kernels without CPU code.
const char* const kChoosing[] = {"aten::convolution", "aten::convolution_backward"};

// For torch's warnings that kernels are replaced.
class Quiet final : public c10::WarningHandler {
  void process(const c10::Warning&) override {}
};

// Registrations live as long as the process.
void replace_kernels() {
  Quiet quiet;
  const c10::WarningUtils::WarningHandlerGuard guard(&quiet);
  static std::vector<c10::RegistrationHandleRAII> registrations;
  auto& dispatcher = c10::Dispatcher::singleton();
  const auto replace = [&](const c10::OperatorName& name, c10::KernelFunction kernel) {
    registrations.push_back(dispatcher.registerImpl(name, DispatchKey::CUDA, std::move(kernel), {},
                                                    nullptr, "convoy stand-in"));
  };
  for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
    const auto op = dispatcher.findSchema(name);
    if (!op || !op->hasKernelForDispatchKey(DispatchKey::CUDA) || stays(*op)) continue;
    replace(name, kernel_for(*op));
  }
  for (const char* name : kChoosing) {
    replace({name, ""}, c10::KernelFunction::makeFromBoxedFunction<&at_once>());
  }
  replace_copy();
  // Attention and normalisation in operators that the CPU has, too, or that extra.cc has code for.
  at::Context& context = at::globalContext();
  context.setUserEnabledCuDNN(false);
  context.setSDPUseFlash(false);
  context.setSDPUseCuDNN(false);
}

}  // namespace
}  // namespace convoy::standin

// Called by the stand-in runtime once libtorch_cuda has registered its own.
extern "C" void standin_replace_operators() {
  convoy::standin::replace_kernels();
}
