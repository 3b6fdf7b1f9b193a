// `import torch` puts Python functions in front of libtorch's Meta kernels. The first one that is
// called imports the compiler (torch._dynamo, more than a second), and each costs tens of
// microseconds. So this library is loaded while libtorch_cuda is, before any Python of torch, and
// remembers what it finds.
#include "src/standin/ops/meta_kernels.h"

#include <ATen/core/boxing/KernelFunction.h>

#include <unordered_map>

namespace convoy::standin {
namespace {

using c10::DispatchKey;
using Kernels = std::unordered_map<c10::OperatorHandle, c10::SafeKernelFunction>;

const Kernels& kernels() {
  static const auto* found = [] {  // never destroyed: programs use operators until their very end
    auto* all = new Kernels;
    auto& dispatcher = c10::Dispatcher::singleton();
    for (const c10::OperatorName& name : dispatcher.getAllOpNames()) {
      const auto op = dispatcher.findSchema(name);
      if (!op || !op->hasKernelForDispatchKey(DispatchKey::Meta)) continue;
      all->emplace(*op, op->getComputedKernelForDispatchKey(DispatchKey::Meta));
    }
    return all;
  }();
  return *found;
}

const size_t remembered = kernels().size();

}  // namespace

bool has_meta(const c10::OperatorHandle& op) {
  return kernels().count(op) != 0;
}

void call_meta(const c10::OperatorHandle& op, torch::jit::Stack& stack) {
  const auto kernel = kernels().find(op);
  if (kernel == kernels().end()) {
    op.callBoxed(stack);
  } else {
    kernel->second.callBoxed(op, c10::DispatchKeySet(DispatchKey::Meta), &stack);
  }
}

}  // namespace convoy::standin
