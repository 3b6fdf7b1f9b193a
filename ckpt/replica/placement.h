#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/client.h>

#include <cstdint>
#include <string>
#include <vector>

// Which nodes keep pieces of whose snapshots. Pure; every node works it out alone and comes to the
// same answer.
namespace convoy::ckpt {

// A snapshot is cut into k pieces, and m more are computed from them: any k of the k + m give it
// back. k = 1: m copies. m = 0: nothing leaves the node.
struct ReplicaScheme {
  uint32_t k = 1;
  uint32_t m = 0;
  uint32_t pieces() const { return k + m; }
  bool operator==(const ReplicaScheme&) const = default;
};

struct Placement {
  // holders[owner][piece]: a node each. Piece 0 is the owner's own: it has the snapshot itself.
  std::vector<std::vector<uint32_t>> holders;
  // Where two pieces had to share a domain of failure, and what to do about it.
  std::vector<std::string> warnings;
};

// Nodes form groups of k + m (the last ones up to one less than twice that), and a node's pieces
// lie with the next nodes of its group: each keeps k + m - 1 pieces for others. Nodes of one group
// are of different domains where that is possible at all; an empty domain is one of its own.
// kInvalidArgument: fewer nodes than pieces, or more than kReplicaPiecesMax pieces.
Result<Placement> place_replicas(const std::vector<std::string>& domains,
                                 const ReplicaScheme& scheme);

}  // namespace convoy::ckpt
