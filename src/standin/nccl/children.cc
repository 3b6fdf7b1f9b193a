// The lowest rank of a child (the coordinator of a grown one) makes its segment and offers it to
// the other members in its slot of the parent.
#include "src/standin/nccl/children.h"

#include <algorithm>
#include <tuple>

namespace convoy::standin::nccl {
namespace {

uint64_t bit(int rank) {
  return uint64_t{1} << rank;
}

void make_offer(Communicator& parent, const Offer& offer) {
  RankSlot& mine = parent.slot(parent.rank());
  mine.offer = offer;
  parent.offers_taken[parent.rank()] = mine.offers.fetch_add(1, std::memory_order_release) + 1;
  for (int r = 0; r < parent.nranks(); ++r) {
    if (r != parent.rank()) parent.ring(r);
  }
}

// An offer of one of the members for just these members. One whose maker has given it up is passed
// over.
bool take_offer(Communicator& parent, uint64_t members, bool is_grow, UniqueId& id) {
  const auto look = [&] {
    for (int r = 0; r < parent.nranks(); ++r) {
      const RankSlot& peer = parent.slot(r);
      const uint32_t made = peer.offers.load(std::memory_order_acquire);
      if ((members & bit(r)) == 0 || made == parent.offers_taken[r]) continue;
      const Offer offer = peer.offer;
      parent.offers_taken[r] = made;
      std::string why;
      const bool ours = offer.members == members && (offer.is_grow != 0) == is_grow;
      if (!ours || open_segment(offer.id, why) == nullptr) continue;
      id = offer.id;
      return true;
    }
    return false;
  };
  return parent.wait(
      parent.slot(parent.rank()).bell, look, Stop::aborted,
      [] { return std::string("a child communicator's beginning"); },
      [&] { return std::string("the child's first rank"); });
}

ncclResult_t join_members(Communicator& parent, uint64_t members, int rank, int nranks,
                          Communicator& child) {
  UniqueId id;
  std::string why;
  int leader = 0;
  while ((members & bit(leader)) == 0) ++leader;
  if (leader == parent.rank()) {
    if (!SegmentOwner::make(id, why)) return fail(ncclSystemError, why);
    make_offer(parent, {members, 0, id});
  } else if (!take_offer(parent, members, false, id)) {
    return fail(ncclInternalError, parent.name() + " was aborted while a child was made");
  }
  return child.join(id, rank, nranks);
}

}  // namespace

ncclResult_t split(Communicator& parent, int color, int key, Communicator* child) {
  parent.slot(parent.rank()).words = {color, key, 0, 0};
  if (!parent.meet_on_host("ncclCommSplit")) return ncclInternalError;
  std::vector<std::tuple<int64_t, int>> members;  // key, rank
  uint64_t bits = 0;
  for (int r = 0; r < parent.nranks(); ++r) {
    const auto& words = parent.slot(r).words;
    if (words[0] != color) continue;
    members.emplace_back(words[1], r);
    bits |= bit(r);
  }
  // Before anybody writes other words.
  if (!parent.meet_on_host("ncclCommSplit")) return ncclInternalError;
  if (child == nullptr) return ncclSuccess;
  std::sort(members.begin(), members.end());
  const auto me =
      std::find(members.begin(), members.end(), std::tuple<int64_t, int>(key, parent.rank()));
  return join_members(parent, bits, static_cast<int>(me - members.begin()),
                      static_cast<int>(members.size()), *child);
}

ncclResult_t shrink(Communicator& parent, const std::vector<int>& excluded, Communicator& child) {
  uint64_t bits = 0;
  int rank = 0, nranks = 0;
  for (int r = 0; r < parent.nranks(); ++r) {
    if (std::find(excluded.begin(), excluded.end(), r) != excluded.end()) continue;
    if (r < parent.rank()) ++rank;
    ++nranks;
    bits |= bit(r);
  }
  return join_members(parent, bits, rank, nranks, child);
}

ncclResult_t grow(Communicator& parent, int nranks, Communicator& child) {
  uint64_t members = 0;
  for (int r = 0; r < parent.nranks(); ++r) members |= bit(r);
  UniqueId id = parent.grow_id;
  if (id.pid != 0) {
    make_offer(parent, {members, 1, id});
    parent.grow_id = {};
  } else if (!take_offer(parent, members, true, id)) {
    return fail(ncclInternalError, parent.name() + " was aborted while it grew");
  }
  return child.join(id, parent.rank(), nranks);
}

}  // namespace convoy::standin::nccl
