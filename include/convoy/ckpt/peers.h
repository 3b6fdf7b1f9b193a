#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/ckpt/agent.h>
#include <convoy/ckpt/step_source.h>

#include <cstdint>
#include <memory>
#include <string>

namespace convoy::ckpt {

// Where the memory of a job's agents is found.
struct PeersPlace {
  std::string coordinator;  // ClientOptions::coordinator of this generation
  uint64_t generation = 0;  // of the workers that ask; all nodes' ranks must have connected
  ClusterListen tls = {};   // its PEM files, if the agents use TLS
  Nanos timeout = std::chrono::seconds(60);  // for all nodes to be there
};

// The newest step that the memory of all agents together has whole: every node's snapshot, by its
// own agent or by k pieces of others. A chunk is read from the owner's memory, else from the piece
// it lies in, else it is computed from k other pieces; what does not match its checksum is treated
// as lost. All ranks that ask while nothing is saved get the same step. Opening reads every rank's
// part (some 10 bytes a chunk).
//
// kNotFound: no agent has anything. kDataLoss: too much was lost; names the newest step, the nodes
// whose snapshots can't be had and those that don't answer. kUnavailable: a node has not come.
Result<std::unique_ptr<StepSource>> open_in_peers(const PeersPlace& place);

}  // namespace convoy::ckpt
