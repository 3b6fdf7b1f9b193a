// Which link of a collective that does not go on is the dead one. On the dead link the sender waits
// for the wire and sends again; downstream of it senders have nothing to send, upstream receivers
// have no room.
#include "trace/analysis/stuck.h"

#include <algorithm>
#include <unordered_set>

namespace convoy::trace {
namespace {

struct Candidate {
  uint32_t sender = 0, receiver = 0;
  double wire = 0;      // share of the time that its sender waits for the wire
  uint64_t again = 0;   // retransmits
  double starved = 0;   // share of the time that its receiver waits
  int64_t missing = 0;  // bytes sent that have not come
  uint64_t moved = 0;   // bytes lately
};

const LinkState* link_to(const RankTrack& rank, uint32_t peer) {
  const auto at = std::find_if(rank.links.begin(), rank.links.end(),
                               [&](const LinkState& l) { return l.peer == peer; });
  return at == rank.links.end() ? nullptr : &*at;
}

double share(const LinkState& link, LinkCounter wait) {
  const int64_t time = link.time - link.before_time;
  return link.before_time == 0 || time <= 0
             ? 0
             : static_cast<double>(link.growth(wait)) / static_cast<double>(time);
}

std::vector<Candidate> candidates(const Ledger& ledger, const std::vector<uint32_t>& ranks) {
  const std::unordered_set<uint32_t> among(ranks.begin(), ranks.end());
  std::vector<Candidate> all;
  for (const uint32_t r : ranks) {
    for (const LinkState& out : ledger.rank(r).links) {
      if (!among.contains(out.peer)) continue;
      if (out.now[kLinkSent] == 0 && out.now[kLinkSendWait] == 0) continue;
      Candidate c;
      c.sender = r;
      c.receiver = out.peer;
      c.wire = share(out, kLinkSendWait);
      c.again = out.growth(kLinkRetransmits);
      c.moved = out.growth(kLinkSent);
      if (const LinkState* in = link_to(ledger.rank(out.peer), r)) {
        c.starved = share(*in, kLinkReceiveWait);
        c.missing = static_cast<int64_t>(out.now[kLinkSent] - in->now[kLinkReceived]);
      }
      all.push_back(c);
    }
  }
  return all;
}

// The one that stands out in `of`: `by` times the next, and at least `least`.
template <class Of>
const Candidate* outstanding(const std::vector<Candidate>& all, double least, double by, Of of) {
  const Candidate* best = nullptr;
  double next = 0;
  for (const Candidate& c : all) {
    if (best == nullptr || of(c) > of(*best)) {
      if (best != nullptr) next = std::max(next, of(*best));
      best = &c;
    } else {
      next = std::max(next, of(c));
    }
  }
  if (best == nullptr || of(*best) < least || of(*best) < by * next) return nullptr;
  return best;
}

}  // namespace

std::optional<DeadLink> find_dead_link(const Ledger& ledger, const std::vector<uint32_t>& ranks) {
  const std::vector<Candidate> all = candidates(ledger, ranks);
  const auto told = [](const Candidate& c, double confidence, std::string text) {
    return DeadLink{c.sender, c.receiver, confidence, std::move(text)};
  };
  const auto percent = [](double share) {
    return std::to_string(static_cast<int>(std::min(share, 1.0) * 100)) + " %";
  };
  if (const auto* c = outstanding(all, 0.3, 1.5, [](const Candidate& x) { return x.wire; })) {
    return told(*c, 0.95, "waits for the wire " + percent(c->wire) + " of the time");
  }
  if (const auto* c =
          outstanding(all, 1, 3, [](const Candidate& x) { return static_cast<double>(x.again); })) {
    return told(*c, 0.85, std::to_string(c->again) + " retransmits lately");
  }
  if (const auto* c = outstanding(
          all, 1, 1.5, [](const Candidate& x) { return static_cast<double>(x.missing); })) {
    return told(*c, 0.8, std::to_string(c->missing) + " bytes were sent and have not come");
  }
  if (const auto* c =
          outstanding(all, 0.3, 1.5, [](const Candidate& x) { return x.wire + x.starved; })) {
    return told(*c, 0.6, "its receiver waits " + percent(c->starved) + " of the time");
  }
  return std::nullopt;
}

}  // namespace convoy::trace
