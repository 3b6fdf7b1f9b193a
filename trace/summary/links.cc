#include "trace/summary/links.h"

#include <convoy/trace/event.h>

#include <algorithm>

namespace convoy::trace {
namespace {

constexpr int64_t kRollNs = 10'000'000'000;  // figures are of the last one to two of these
constexpr size_t kPeersMax = 256;

}  // namespace

std::optional<LinkFigure> link_figure(std::string_view name) {
  if (name == names::kSentBytes) return LinkFigure::kSent;
  if (name == names::kReceivedBytes) return LinkFigure::kReceived;
  if (name == names::kSendWait) return LinkFigure::kSendWait;
  if (name == names::kPeerWait) return LinkFigure::kPeerWait;
  if (name == names::kReceiveWait) return LinkFigure::kReceiveWait;
  if (name == names::kSourceWait) return LinkFigure::kSourceWait;
  if (name == names::kDrainWait) return LinkFigure::kDrainWait;
  if (name == names::kRetransmits) return LinkFigure::kRetransmits;
  return std::nullopt;
}

std::optional<ProcessFigure> process_figure(std::string_view name) {
  if (name == names::kRunQueue) return ProcessFigure::kRunQueue;
  if (name == names::kProcessor) return ProcessFigure::kProcessor;
  if (name == names::kPageFaults) return ProcessFigure::kPageFaults;
  if (name == names::kDiskWait) return ProcessFigure::kDiskWait;
  if (name == names::kTokens) return ProcessFigure::kTokens;
  return std::nullopt;
}

Link* Counters::link(uint32_t peer) {
  const auto at = std::ranges::lower_bound(links_, peer, {}, &Link::peer);
  if (at != links_.end() && at->peer == peer) return &*at;
  if (links_.size() == kPeersMax) return nullptr;
  Link fresh;
  fresh.peer = peer;
  return &*links_.insert(at, fresh);
}

void Counters::pass(int64_t time) {
  if (now_ == 0) now_ = middle_ = base_ = time;
  if (time - middle_ >= kRollNs && now_ > middle_) {
    base_ = middle_;
    middle_ = now_;
    for (Link& link : links_) {
      for (Rolled& figure : link.figures) figure.roll();
    }
    for (Rolled& figure : process_) figure.roll();
  }
  now_ = std::max(now_, time);
}

}  // namespace convoy::trace
