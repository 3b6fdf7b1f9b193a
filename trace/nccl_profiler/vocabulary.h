#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

// What NCCL calls its operations and types, and what the trace calls them.
namespace convoy::trace::nccl {

enum class Function : uint8_t {
  kAllGather,
  kAllReduce,
  kAllToAll,
  kBroadcast,
  kGather,
  kReduce,
  kReduceScatter,
  kScatter,
  kSend,
  kReceive,
  kOther,
};
inline constexpr size_t kFunctions = static_cast<size_t>(Function::kOther) + 1;
inline constexpr size_t kDtypes = 12;  // the last one: any other

// Take a null pointer, too.
Function function_of(const char* text);
size_t dtype_of(const char* text);  // an index
const char* name_of(Function function);
const char* dtype_name(size_t dtype);
size_t dtype_bytes(size_t dtype);

// The interned names of this process's segment; all zero before one is open.
struct Names {
  std::array<std::array<uint16_t, kDtypes>, kFunctions> operations{};
  uint16_t launch = 0, send_step = 0, receive_step = 0;
  void intern_all();
};

}  // namespace convoy::trace::nccl
