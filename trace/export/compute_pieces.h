#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <unordered_map>
#include <utility>
#include <vector>

namespace convoy::trace {

// When a rank computes. Where its GPU's work is recorded: the spans `kernel`. Elsewhere: forward,
// backward and optimizer, without the time in which they await a neighbouring stage. Spans come as
// in Batch: those within another one first. Not thread-safe.
class ComputePieces {
 public:
  explicit ComputePieces(const Registry& registry) : registry_(registry) {}
  // The stretches in which `span` computes; valid until the next call.
  const std::vector<std::pair<int64_t, int64_t>>& of(const SpanEvent& span);

 private:
  enum class Role : uint8_t { kUnseen, kOther, kKernel, kWork, kAwait };
  Role role(uint32_t name);

  const Registry& registry_;
  bool kernels_ = false;  // there are some
  std::vector<Role> roles_;
  std::unordered_map<uint32_t, std::vector<std::pair<int64_t, int64_t>>> awaited_;  // by thread
  std::vector<std::pair<int64_t, int64_t>> pieces_;
};

}  // namespace convoy::trace
