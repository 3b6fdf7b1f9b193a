#include "trace/analysis/slow/name_kinds.h"

#include <string_view>
#include <utility>

namespace convoy::trace::slow {
namespace {

template <typename Kind, size_t N>
Kind kind_of(std::string_view name, const std::pair<const char*, Kind> (&table)[N]) {
  for (const auto& [text, kind] : table) {
    if (name == text) return kind;
  }
  return Kind::kOther;
}

constexpr std::pair<const char*, SpanKind> kSpans[] = {
    {names::kStep, SpanKind::kStep},
    {names::kData, SpanKind::kData},
    {names::kForward, SpanKind::kForward},
    {names::kBackward, SpanKind::kBackward},
    {names::kAwaitStage, SpanKind::kAwait},
    {names::kReduceGradients, SpanKind::kReduce},
    {names::kOptimizer, SpanKind::kOptimizer},
    {names::kEvaluate, SpanKind::kEvaluate},
    {names::kCheckpoint, SpanKind::kCheckpoint},
    {names::kGarbage, SpanKind::kGarbage},
    {names::kLaunch, SpanKind::kLaunch},
    {names::kKernel, SpanKind::kKernel},
    {names::kWarmUp, SpanKind::kWarmUp},
};
constexpr std::pair<const char*, CounterKind> kCounters[] = {
    {names::kSentBytes, CounterKind::kSentBytes}, {names::kSendWait, CounterKind::kSendWait},
    {names::kPeerWait, CounterKind::kPeerWait},   {names::kRetransmits, CounterKind::kRetransmits},
    {names::kRoundTrip, CounterKind::kRoundTrip}, {names::kRunQueue, CounterKind::kRunQueue},
    {names::kTokens, CounterKind::kTokens},
};

}  // namespace

bool NameKinds::grow(uint32_t name) {
  if (name < spans_.size()) return true;
  const auto& known = registry_.names();
  for (size_t i = spans_.size(); i < known.size(); ++i) {
    spans_.push_back(kind_of(known[i], kSpans));
    counters_.push_back(kind_of(known[i], kCounters));
  }
  return name < spans_.size();
}

}  // namespace convoy::trace::slow
