#pragma once

#include <ATen/core/dispatch/Dispatcher.h>
#include <ATen/core/stack.h>

// CPU code of our own for operators that torch has on GPUs only.
namespace convoy::standin {

struct ExtraOperator {
  // From arguments on the device "meta" to results there; undefined where nobody asked for one.
  torch::jit::Stack (*shapes)(const torch::jit::Stack& arguments);
  // From arguments on the CPU to results there.
  torch::jit::Stack (*run)(const torch::jit::Stack& arguments);
};

// Null: there is none for it.
const ExtraOperator* extra_operator(const c10::OperatorHandle& op);

}  // namespace convoy::standin
