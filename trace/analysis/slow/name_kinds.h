#pragma once

#include <convoy/trace/event.h>

#include <cstdint>
#include <vector>

namespace convoy::trace::slow {

enum class SpanKind : uint8_t {
  kOther,
  kStep,
  kData,
  kForward,
  kBackward,
  kAwait,
  kReduce,
  kOptimizer,
  kEvaluate,
  kCheckpoint,
  kGarbage,
  kLaunch,
  kKernel,
  kWarmUp,
};
enum class CounterKind : uint8_t {
  kOther,
  kSentBytes,
  kSendWait,
  kPeerWait,
  kRetransmits,
  kRoundTrip,
  kRunQueue,
  kTokens,
};

// What a registry's names mean, looked up once for each.
class NameKinds {
 public:
  explicit NameKinds(const Registry& registry) : registry_(registry) {}
  SpanKind span(uint32_t name) { return grow(name) ? spans_[name] : SpanKind::kOther; }
  CounterKind counter(uint32_t name) { return grow(name) ? counters_[name] : CounterKind::kOther; }

 private:
  bool grow(uint32_t name);

  const Registry& registry_;
  std::vector<SpanKind> spans_;
  std::vector<CounterKind> counters_;
};

}  // namespace convoy::trace::slow
