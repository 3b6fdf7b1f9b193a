#pragma once

#include "trace/aggregator/wire.pb.h"
#include <convoy/base/status.h>
#include <convoy/trace/event.h>

#include <cstddef>
#include <ctime>
#include <span>
#include <string>
#include <vector>

// Messages between collectors and aggregators, and how their bodies are packed.
namespace convoy::trace {

inline constexpr uint32_t kWireVersion = 1;
inline constexpr const char* kBatchesMethod = "trace.batches";
inline constexpr const char* kClockMethod = "trace.clock";
inline constexpr size_t kRawBytesMax = 16 << 20;  // of a body that is unpacked

void to_wire(const JobInfo& job, wire::Job& to);
// kInvalidArgument for what no job can be.
Result<JobInfo> from_wire(const wire::Job& job);

// With zstd, where that makes it smaller; else it stays as it is. True: it did.
bool pack(std::string& body);
// Fills in `to`, which has its right size already.
Status unpack(std::span<const std::byte> packed, std::vector<std::byte>& to);

inline int64_t now_on(clockid_t clock) {
  timespec now{};
  ::clock_gettime(clock, &now);
  return int64_t{now.tv_sec} * 1000000000 + now.tv_nsec;
}

}  // namespace convoy::trace
