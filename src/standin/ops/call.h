#pragma once

#include "src/standin/standin.h"

#include <ATen/core/function_schema.h>
#include <ATen/core/ivalue.h>

#include <vector>

// What the operators' CPU code shares.
namespace convoy::standin {

// The tensor's bytes as a tensor of the host, for the stand-in's own work; other tensors unchanged.
at::Tensor host_alias(const at::Tensor& tensor);

// Appends the device memory that the tensors in `value` lie in.
void add_ranges(const c10::IValue& value, bool write, std::vector<StandinRange>& ranges);

// Whether the operator writes to what it is given there.
inline bool writes(const c10::Argument& argument) {
  return argument.alias_info() != nullptr && argument.alias_info()->isWrite();
}

// Puts copies that need a kernel on a GPU (other type, other strides) on the stream, too.
void replace_copy();

}  // namespace convoy::standin
