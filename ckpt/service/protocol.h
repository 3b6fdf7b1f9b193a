#pragma once

#include <cstdint>

namespace convoy::ckpt {

// Of messages.proto. Agent and trainers of one node must agree.
inline constexpr uint32_t kProtocolVersion = 3;

}  // namespace convoy::ckpt
