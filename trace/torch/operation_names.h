#pragma once

#include "trace/torch/call_facts.h"

#include <c10/core/ScalarType.h>
#include <torch/csrc/distributed/c10d/Hooks.hpp>

#include <cstdint>

namespace convoy::trace {

// The interned operation_text() of a call; takes a lock the first time only. 0: none left.
uint16_t operation_name(c10d::HookOpName operation, c10::ScalarType dtype, bool has_dtype,
                        const CallFacts& facts, bool uneven);
// In a child of fork() names have other numbers.
void forget_operation_names();

}  // namespace convoy::trace
