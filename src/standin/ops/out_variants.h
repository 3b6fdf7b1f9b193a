#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

// The operators that write into tensors that are given (mm.out), which save a copy of each result.
namespace convoy::standin {

// The form of the operator that takes the same arguments and then its results, with CPU code of its
// own; null: there is none.
const c10::OperatorHandle* out_variant(const c10::OperatorHandle& op);

}  // namespace convoy::standin
