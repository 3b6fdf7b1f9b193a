// NCCL connects two ranks at the first message of each direction: the launch does so for all
// directions that its group has, and waits until the peer's launch does the same. One side that
// sends and receives in one group, against another that does one after the other, can wait for
// ever; two ranks on an H100 did (NCCL 2.30.7). The stand-in doesn't wait here, so that the program
// goes on to its other findings.
#include "src/standin/nccl/communicator.h"

namespace convoy::standin::nccl {
namespace {

const char* text_of_directions(uint32_t directions) {
  if (directions == kToPeer) return "by sending only";
  return directions == kFromPeer ? "by receiving only" : "by sending and receiving in one group";
}

uint32_t mirrored(uint32_t directions) {
  return ((directions & kToPeer) != 0 ? kFromPeer : 0) |
         ((directions & kFromPeer) != 0 ? kToPeer : 0);
}

}  // namespace

void Communicator::connect(int peer, uint32_t directions) {
  Connection& connection = connections_[static_cast<size_t>(peer)];
  const uint32_t fresh = directions & ~connection.directions;
  if (fresh == 0 || peer == rank_) return;
  connection.directions |= fresh;
  const size_t call = connection.calls++;
  // Whoever comes second sees both.
  segment_->pairs[rank_][peer].connects[call] = fresh;
  const uint32_t theirs = segment_->pairs[peer][rank_].connects[call];
  if (theirs == 0 || theirs == mirrored(fresh)) return;
  const std::string text =
      name() + " begins to exchange messages with rank " + std::to_string(peer) + " " +
      text_of_directions(fresh) + ", but that one " + text_of_directions(theirs) +
      ". NCCL connects two ranks at their first message, in all directions of " +
      "the group together, and GPUs may hang there. Let both exchange a small " +
      "message in both directions in one group at the start";
  standin_finding("unmatched connection", text.c_str());
}

}  // namespace convoy::standin::nccl
