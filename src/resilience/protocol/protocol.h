#pragma once

#include <cstdint>

namespace convoy::resilience {

// Of messages.proto.
inline constexpr uint32_t kProtocolVersion = 4;

}  // namespace convoy::resilience
