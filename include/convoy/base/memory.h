#pragma once

#include <cstdint>

namespace convoy {

// Bytes of memory that can still be had: the machine's, and the control group's if it has a limit.
// UINT64_MAX: nobody tells.
uint64_t available_memory();

}  // namespace convoy
