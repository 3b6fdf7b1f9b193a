#pragma once

#include <convoy/base/clock.h>
#include <convoy/base/fd.h>
#include <convoy/base/status.h>
#include <convoy/ckpt/arena.h>
#include <convoy/ckpt/copy.h>
#include <convoy/ckpt/state.h>
#include <convoy/ckpt/tier.h>

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

// A rank's side of the checkpoint service: copies its state into memory that the node's agent owns,
// and goes on.
namespace convoy::ckpt {

inline constexpr uint32_t kReplicaPiecesMax = 32;  // replica_k + replica_m

// All ranks of a node must say the same but for `rank`.
struct ClientOptions {
  std::string agent;  // the name of its socket
  std::string job;
  uint64_t generation = 0;
  uint32_t rank = 0;
  uint32_t world_size = 1;
  uint32_t local_size = 1;
  // Of a job on several machines: this node and how many there are (node 0 has rank 0 by custom),
  // and the address of node 0's agent. Rank 0 gets it from agent_address() and gives it to all,
  // through the job's rendezvous store or a broadcast.
  uint32_t node = 0;
  uint32_t nodes = 1;
  std::string coordinator = {};
  std::string domain = {};   // of failure (rack, power feed): nodes of one are likely lost together
  std::string mesh;          // for people
  std::string folder;        // of the disk tier; empty: snapshots stay in memory
  uint64_t keep_newest = 2;  // committed steps that stay in the folder
  uint64_t keep_every = 0;   // and each whose number is a multiple of it; 0: none
  uint64_t disk_every = 1;   // of the saves; the others stay in memory
  uint64_t bandwidth = 0;    // bytes/s of the disk; 0: no limit
  bool incremental = true;   // chunks that have not changed are not written again
  bool take_over = false;    // the folder, even if another job has it that has not released it
  int compress = 0;          // zstd level of chunks in the folder; 0: none
  // Of the remote tier, which goes on from the folder where there is one: "s3://bucket/run" and the
  // other URIs of open_store(). Empty: none. The rest as for the folder, which a job on several
  // nodes needs for it.
  std::string remote;
  uint64_t remote_every = 1;  // of the saves; where the store is slower, fewer
  uint64_t remote_keep_newest = 2;
  uint64_t remote_keep_every = 0;
  uint64_t remote_bandwidth = 0;
  int remote_compress = 0;
  Overtake overtake = Overtake::kWait;
  int threads = 2;  // that copy, the caller included
  // Peer memory, of several nodes: each snapshot is cut into k pieces and m more are computed,
  // which lie with k + m - 1 other nodes; any m nodes of a group of k + m may be lost. k = 1:
  // copies. m = 0: off. k + m nodes are needed.
  uint32_t replica_k = 1;
  uint32_t replica_m = 0;
  uint64_t replica_bandwidth = 0;  // bytes/s that a node sends; 0: no limit
  Nanos timeout = std::chrono::seconds(60);
  // Of several nodes: in which all must have staged a step, and then written it; and after which a
  // node whose agent is silent counts as gone. The step fails then, and says who is missing.
  Nanos step_timeout = std::chrono::minutes(10);
  Nanos peer_timeout = std::chrono::seconds(10);
};

struct SaveOutcome {
  bool skipped = false;
  std::string why;     // it was skipped
  uint64_t bytes = 0;  // of this rank's stream
};

// One thread at a time. Every call has the options' timeout as its deadline. Errors are for the
// caller to report: a save that failed must not end the training. After kUnavailable (the agent has
// gone) the next call connects anew; a save to an agent that dies is tried once more by itself.
class SnapshotClient {
 public:
  // kInvalidArgument (options), kUnavailable (no agent), kFailedPrecondition and kMismatch (the
  // agent serves another job or generation, ranks disagree).
  static Result<std::unique_ptr<SnapshotClient>> connect(ClientOptions options);

  // Reserves memory for snapshots like this state, twice its bytes, and touches it, on huge pages
  // where the kernel makes them: the first save is as fast as later ones then. Blocks until that is
  // done: a second or two a GiB of state with huge pages, which make the disk twice as fast.
  // kResourceExhausted: the machine has not as much memory left.
  Status prepare(const State& state);

  // Copies the state, checksums on the way, and returns once the agent has it: this process may be
  // killed then. The step exists in memory when all ranks have come so far; disk follows in the
  // background. `notes`: for the commit record; one rank's count. `everywhere`: the step goes to
  // folder and store, whatever disk_every and remote_every say, as the last one of a job should;
  // all ranks alike. Blocks for the copy, and for Overtake::kWait until an earlier snapshot is
  // written.
  Result<SaveOutcome> save(uint64_t step, const State& state,
                           const std::map<std::string, std::string>& notes = {},
                           bool everywhere = false);

  // Blocks until the step has come to the tier. kAborted, kFailedPrecondition or what the disk said
  // if it never will; kDeadlineExceeded.
  Status wait(uint64_t step, Tier tier, Nanos timeout);

  const ClientOptions& options() const { return options_; }

 private:
  struct Ask;
  explicit SnapshotClient(ClientOptions options) : options_(std::move(options)) {}
  Status ensure_connected();
  Status reserve(uint64_t bytes);
  Result<SaveOutcome> try_to_save(uint64_t step, const State& state,
                                  const std::map<std::string, std::string>& notes, bool everywhere);

  ClientOptions options_;
  UniqueFd socket_;
  std::unique_ptr<CopyPool> pool_;
  std::shared_ptr<Arena> arena_;
  uint64_t slot_bytes_ = 0;
};

// Where agents of other machines reach this one: what goes into ClientOptions::coordinator. The
// agent begins to listen with the first such question. kUnavailable: no agent; kFailedPrecondition:
// libconvoy_cluster is not installed.
Result<std::string> agent_address(const std::string& agent,
                                  Nanos timeout = std::chrono::seconds(60));

// What an agent has counted: "scrub.passes", "scrub.chunks", "scrub.bytes" (read again),
// "scrub.bad", "scrub.healed", "scrub.left". kUnavailable: no agent.
Result<std::map<std::string, uint64_t>> agent_counters(const std::string& agent,
                                                       Nanos timeout = std::chrono::seconds(60));

// A rank's snapshot in an agent's memory, mapped for reading. `part` has one stream, whose chunks
// lie raw, one behind the other, in `stream`.
struct HeldSnapshot {
  uint32_t rank = 0;
  Part part;
  std::shared_ptr<Arena> arena;  // keeps `stream` alive
  std::span<const std::byte> stream;
};
struct HeldStep {
  uint64_t step = 0;
  uint32_t world_size = 1;
  std::vector<HeldSnapshot> ranks;
};
// The newest step that the agent's memory has whole, or nothing. kUnavailable: no agent.
Result<std::optional<HeldStep>> find_in_memory(const std::string& agent,
                                               Nanos timeout = std::chrono::seconds(60));

}  // namespace convoy::ckpt
