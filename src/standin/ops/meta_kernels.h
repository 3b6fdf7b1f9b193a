#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

// Shapes of what operators return.
namespace convoy::standin {

// Replaces the arguments on the stack, tensors of the meta device, by the results: by libtorch's
// own Meta kernel if the operator has one, else by whatever is registered.
void call_meta(const c10::OperatorHandle& op, torch::jit::Stack& stack);

// Whether the operator has one that doesn't come from Python: those of Python refuse where shapes
// depend on values.
bool has_meta(const c10::OperatorHandle& op);

}  // namespace convoy::standin
