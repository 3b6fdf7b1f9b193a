#pragma once

#include <cstdint>

namespace convoy::resilience {

// Of messages.proto.
inline constexpr uint32_t kProtocolVersion = 3;

}  // namespace convoy::resilience
