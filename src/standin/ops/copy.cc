// aten::copy_, which moves bytes by the runtime's copies where it can, and by a kernel where type
// or strides change. Only the latter is replaced: torch's own does the rest, temporaries included.
#include "src/standin/ops/call.h"

#include <ATen/ATen.h>
#include <ATen/core/LegacyTypeDispatch.h>
#include <ATen/core/dispatch/Dispatcher.h>
#include <c10/core/GradMode.h>
#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
#include <torch/library.h>

#include <string>

namespace convoy::standin {
namespace {

using c10::DispatchKey;

constexpr const char* kName = "aten::copy_";

c10::OperatorHandle copy_operator() {
  return c10::Dispatcher::singleton().findSchemaOrThrow(kName, "");
}

// torch's, as it is before replace_copy().
const c10::SafeKernelFunction& original() {
  static const auto* kernel = new c10::SafeKernelFunction(
      copy_operator().getComputedKernelForDispatchKey(DispatchKey::CUDA));
  return *kernel;
}

struct Copy {
  at::Tensor to, from;  // aliases
  void run() {
    const c10::AutoGradMode no_grad(false);
    const at::AutoDispatchBelowADInplaceOrView below;
    try {
      to.copy_(from);
    } catch (const std::exception& e) {
      standin_finding("operator failed", (std::string(kName) + ": " + e.what()).c_str());
    }
  }
};

bool is_plain(const at::Tensor& to, const at::Tensor& from) {
  return to.scalar_type() == from.scalar_type() && to.is_conj() == from.is_conj() &&
         to.is_neg() == from.is_neg() && to.sizes() == from.sizes() &&
         to.strides() == from.strides() && to.is_non_overlapping_and_dense();
}

void enqueue(const at::Tensor& to, const at::Tensor& from) {
  const c10::cuda::CUDAGuard guard(to.device());
  std::vector<StandinRange> ranges;
  add_ranges(from, false, ranges);
  add_ranges(to, true, ranges);
  const StandinWork work{kName,
                         [](void* c) { static_cast<Copy*>(c)->run(); },
                         [](void* c) { delete static_cast<Copy*>(c); },
                         new Copy{host_alias(to), host_alias(from)},
                         ranges.data(),
                         ranges.size()};
  standin_enqueue(c10::cuda::getCurrentCUDAStream().stream(), &work);
}

at::Tensor& copy(at::Tensor& self, const at::Tensor& source, bool non_blocking) {
  const at::AutoDispatchBelowADInplaceOrView below;
  const bool torchs = !self.is_cuda() || !source.is_cuda() || is_plain(self, source);
  if (torchs) {
    torch::jit::Stack stack{self, source, non_blocking};
    original().callBoxed(copy_operator(), c10::DispatchKeySet(DispatchKey::CUDA), &stack);
    return self;
  }
  if (self.numel() == 0) return self;
  const at::Tensor from = source.expand_as(self);
  if (self.device() == from.device()) {
    enqueue(self, from);
    return self;
  }
  // Between devices as plain bytes: changed before, spread after.
  at::Tensor bytes = at::empty(self.sizes(), self.options().device(from.device()));
  enqueue(bytes, from);
  at::Tensor arrived = at::empty(self.sizes(), self.options());
  arrived.copy_(bytes, non_blocking);
  if (is_plain(self, arrived)) return self.copy_(arrived);
  enqueue(self, arrived);
  return self;
}

}  // namespace

void replace_copy() {
  original();
  static const auto registration = c10::Dispatcher::singleton().registerImpl(
      copy_operator().operator_name(), DispatchKey::CUDA,
      c10::KernelFunction::makeFromUnboxedRuntimeFunction(&copy), {}, nullptr, "convoy stand-in");
}

}  // namespace convoy::standin
