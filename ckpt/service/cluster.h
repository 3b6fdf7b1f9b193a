#pragma once

#include "ckpt/service/node_image.h"
#include <convoy/base/clock.h>
#include <convoy/base/status.h>
#include <convoy/ckpt/agent.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/tier.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <string>
#include <vector>

// How the agents of a job on several machines work together, as one agent sees it. What is behind
// these interfaces talks gRPC and lies in a library of its own, which load_cluster() opens: an
// agent of one machine never needs it.
//
// The agent of node 0 is the coordinator. It alone decides: its decisions are one row of events,
// which all nodes receive in the same order and follow. So no two nodes can save or skip
// differently.
namespace convoy::ckpt {

struct StepEvent {
  enum class Kind : uint32_t {
    kGranted = 1,        // save it, into `slot`
    kSkipped = 2,        // save nothing; `status` says why
    kWhole = 3,          // all nodes have it in memory; `to_disk`: kWrite will follow
    kWrite = 4,          // write your part, under `claim` of the owner record by `who`
    kCommitted = 5,      // it exists in the folder
    kFailed = 6,         // it will come no further; `status` says why, and who is to blame
    kReplicated = 7,     // all nodes' pieces lie in the memory of their peers
    kNotReplicated = 8,  // they won't
    kLost = 9,           // of this node alone: no coordinator (`status`); all steps have failed
    kBack = 10,          // and now there is one
  };
  Kind kind = Kind::kFailed;
  uint64_t step = 0;
  int slot = 0;
  bool to_disk = false;
  bool dropped = false;  // kFailed: its slot is free; else it may stay in memory
  uint64_t claim = 0;
  std::string who;
  Status status;
};

// This node of one generation of the job's workers.
struct NodeIdentity {
  std::string job;
  uint64_t generation = 0;
  uint32_t world_size = 1;
  uint32_t node = 0;
  uint32_t nodes = 1;
  std::string domain;  // of failure: a rack, a power feed; empty: a domain of its own
};

// This node's line to the coordinator. Thread-safe; nothing blocks. What is told is repeated until
// the coordinator has it or the generation is over. The destructor ends it: no event comes later.
class NodeLink {
 public:
  virtual ~NodeLink() = default;
  virtual void has_rank(uint32_t rank) = 0;  // for messages that name who is missing
  // `everywhere`: to the disk, whatever CoordinatorOptions::disk_every says.
  virtual void want(uint64_t step, Overtake policy, bool everywhere) = 0;
  virtual void staged(uint64_t step) = 0;
  // `notes`: for the commit record.
  virtual void wrote(uint64_t step, const Result<PartSummary>& part,
                     const std::map<std::string, std::string>& notes) = 0;
  // The step can't become whole here.
  virtual void lost(uint64_t step, const Status& why) = 0;
  // All pieces of this node lie with its peers, or why not.
  virtual void replicated(uint64_t step, const Status& status) = 0;
  // Sends pieces of the image to the nodes that keep them, in the background, and reports
  // replicated(). Needs replicas in the options of join().
  virtual void replicate(std::shared_ptr<const NodeImage> image) = 0;
  // All nodes have the step's pieces: older ones go, and the image stays readable for peers.
  virtual void settle(uint64_t step) = 0;
  // They won't. When it returns the image is no longer read.
  virtual void forget_image(uint64_t step) = 0;
};

struct ReplicaOptions {
  uint32_t k = 1, m = 0;   // m = 0: nothing is sent to peers
  uint64_t bandwidth = 0;  // bytes/s; 0: no limit
};

// What the coordinator needs of its node's disk. Each calls `done` later, on any thread.
struct CoordinatorDisk {
  struct Claimed {
    uint64_t claim = 0;
    std::string who;
  };
  std::function<void(std::function<void(Result<Claimed>)> done)> claim;
  std::function<void(Commit commit, std::vector<File> files, std::function<void(Status)> done)>
      commit;
};

struct CoordinatorOptions {
  NodeIdentity self;
  std::string mesh;
  uint64_t disk_every = 1;
  bool replicate = false;                         // whole steps also go to the peers' memory
  Nanos step_timeout = std::chrono::minutes(10);  // of staging, and of writing
  Nanos peer_timeout = std::chrono::seconds(10);  // a node that is silent for so long has gone
  CoordinatorDisk disk;                           // no functions: memory only
};

class Cluster {
 public:
  virtual ~Cluster() = default;
  // "HOST:PORT/TOKEN": what ranks of other nodes give to their agents.
  virtual std::string address() const = 0;
  // From now on this agent is the coordinator of that generation; an older one it had is over.
  virtual void coordinate(CoordinatorOptions options) = 0;
  // Joins the generation whose coordinator has the address; tries until it is there. `on_event` is
  // called on a thread of the link's, one at a time.
  virtual Result<std::unique_ptr<NodeLink>> join(
      const NodeIdentity& self, const std::string& coordinator, const ReplicaOptions& replicas,
      std::function<void(const StepEvent&)> on_event) = 0;
};

// Opens libconvoy_cluster (once a process) and starts to listen. kFailedPrecondition: the library
// is not there; kAlreadyExists: the port is taken.
Result<std::unique_ptr<Cluster>> load_cluster(const ClusterListen& listen);

}  // namespace convoy::ckpt
