#include "trace/analysis/slow/links.h"

#include <cstdlib>

namespace convoy::trace::slow {
namespace {

// Counters of one reading have times as close as this, in ns.
constexpr int64_t kTogether = 20'000'000;

}  // namespace

void Links::add(uint32_t sender, uint32_t receiver, CounterKind kind, int64_t time,
                uint64_t value) {
  const uint64_t key = uint64_t{sender} << 32 | receiver;
  auto at = at_.find(key);
  if (at == at_.end()) {
    if (links_.size() >= kLinksMax) return;
    at = at_.emplace(key, static_cast<uint32_t>(links_.size())).first;
    of_sender_[sender].push_back(at->second);
    links_.push_back({.sender = sender, .receiver = receiver, .samples = {}});
    states_.resize(links_.size());
  }
  State& state = states_[at->second];
  Sum* sum = nullptr;
  switch (kind) {
    case CounterKind::kSentBytes:
      sum = &state.bytes;
      break;
    case CounterKind::kSendWait:
      sum = &state.send_wait;
      break;
    case CounterKind::kPeerWait:
      sum = &state.peer_wait;
      break;
    case CounterKind::kRetransmits:
      sum = &state.retransmits;
      break;
    case CounterKind::kRoundTrip:
      links_[at->second].has_round_trip |= value > 0;
      return;
    default:
      return;
  }
  if (!sum->known || value < sum->taken) sum->taken = value;  // the first, or a new connection's
  sum->known = true;
  sum->last = value;
  sum->time = time;
}

float Links::take(Sum& sum) {
  const float grown = static_cast<float>(sum.last - sum.taken);
  sum.taken = sum.last;
  return grown;
}

void Links::close(uint32_t sender, uint32_t step) {
  const auto all = of_sender_.find(sender);
  if (all == of_sender_.end()) return;
  for (const uint32_t at : all->second) {
    State& state = states_[at];
    // A wait whose bytes were lost, or the reverse, is left for the next step.
    if (!state.send_wait.known) continue;
    if (std::abs(state.bytes.time - state.send_wait.time) > kTogether) continue;
    if (state.bytes.last == state.bytes.taken) continue;
    std::vector<LinkSample>& samples = links_[at].samples;
    const uint32_t before = samples.empty() ? step - 1 : samples.back().step;
    if (samples.size() >= window_) samples.erase(samples.begin());
    samples.push_back({.step = step,
                       .steps = step - before,
                       .bytes = take(state.bytes),
                       .send_wait = take(state.send_wait),
                       .peer_wait = take(state.peer_wait),
                       .retransmits = take(state.retransmits)});
  }
}

}  // namespace convoy::trace::slow
