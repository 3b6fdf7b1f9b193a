#pragma once

#include "ckpt/service/cluster.h"
#include "ckpt/service/disk_tier.h"
#include "ckpt/service/remote_tier.h"
#include "ckpt/service/snapshot_table.h"
#include "ckpt/service/step_progress.h"
#include <convoy/ckpt/arena.h>

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

// One generation of a job's workers on this node: their memory, and their steps on the way to the
// tiers. Owned and called by the agent's thread only.
namespace convoy::ckpt {

// What all ranks of the node say alike.
struct Workers {
  std::string job;
  uint64_t generation = 0;
  uint32_t world_size = 1;
  uint32_t local_size = 1;
  std::string mesh;
  std::string folder;  // empty: no disk tier
  uint64_t keep_newest = 2, keep_every = 0;
  uint64_t disk_every = 1;
  uint64_t bandwidth = 0;
  bool incremental = true;
  bool take_over = false;
  int compress = 0;
  std::string remote;  // empty: no remote tier
  uint64_t remote_every = 1;
  uint64_t remote_keep_newest = 2, remote_keep_every = 0;
  uint64_t remote_bandwidth = 0;
  int remote_compress = 0;
  uint32_t node = 0, nodes = 1;
  std::string coordinator;  // address; of several nodes only
  std::string domain;
  Nanos step_timeout{}, peer_timeout{};
  uint32_t replica_k = 1, replica_m = 0;
  uint64_t replica_bandwidth = 0;
  bool operator==(const Workers&) const = default;
};

// A rank's snapshot in its arena.
struct StagedSnapshot {
  std::shared_ptr<Arena> arena;
  uint64_t offset = 0;  // of the slot
  uint64_t stream_bytes = 0;
  uint64_t part_offset = 0;  // from the slot's begin
  uint64_t part_bytes = 0;
};

// Whether save number `number`, from 0, is one of every `every`.
inline bool is_turn(uint64_t number, uint64_t every) {
  return every <= 1 || number % every == 0;
}

class AgentJob {
 public:
  static constexpr int kSlots = 2;

  // `disk` and `remote` may be null and must outlive this. `post` runs a function on the agent's
  // thread, from any thread; `changed` is called there when a step got further or a slot may be
  // free.
  AgentJob(Workers workers, std::shared_ptr<DiskTier> disk, std::shared_ptr<RemoteTier> remote,
           std::function<void(std::function<void()>)> post, std::function<void()> changed);
  ~AgentJob();
  AgentJob(const AgentJob&) = delete;
  AgentJob& operator=(const AgentJob&) = delete;

  const Workers& workers() const { return workers_; }
  // Of several nodes: from now on steps are decided by the coordinator, which is made first if this
  // is node 0. Once, before ranks are served.
  Status join(Cluster& cluster);
  void has_rank(uint32_t rank);
  // Whether a step that was staged may still come to the disk.
  bool busy() const;
  // How long the disk has been at the step that it writes now.
  Nanos disk_busy_for() const { return disk_ == nullptr ? Nanos(0) : disk_->busy_for(); }
  // A rank no longer waits for room for the step.
  void give_up(uint64_t step, const Status& why);

  // Room for snapshots of `bytes` each. What a rank had reserved before stays alive for as long as
  // a step lies in it.
  Result<std::shared_ptr<Arena>> reserve(uint32_t rank, uint64_t bytes);
  uint64_t slot_bytes(uint32_t rank) const;

  struct Slot {
    SnapshotTable::Decision decision;
    uint64_t offset = 0;  // if granted
  };
  // `everywhere`: the step goes to all tiers, whatever disk_every and remote_every say.
  Result<Slot> acquire(uint32_t rank, uint64_t step, Overtake policy, bool everywhere);
  // kInvalidArgument for a snapshot that isn't in the rank's slot, kDataLoss for a damaged part.
  Status stage(uint32_t rank, uint64_t step, const StagedSnapshot& where,
               std::map<std::string, std::string> notes);
  // Whether the step has come to the tier; a failure if it never will. Asked by a rank that has
  // saved the step: if not here (but to an agent that died), it is not going to.
  Result<bool> reached(uint32_t rank, uint64_t step, Tier tier);
  void lose(uint32_t rank);
  // The newest step of which a rank's snapshot was taken over, and that is on its way to the folder
  // (without one: to the store).
  std::optional<uint64_t> owed() const;
  // The newest step that has come there, of those that are remembered.
  std::optional<uint64_t> newest_in(Tier tier) const;
  // Hands the newest step to the tiers if it was to stay in memory. False: there is no whole step.
  bool flush();
  // Whether a step is on its way from the disk to the remote tier: neither of them counts it.
  bool between_tiers() const;

  struct Found {
    uint64_t step = 0;
    uint32_t world_size = 1;
    std::map<uint32_t, StagedSnapshot> ranks;
  };
  std::optional<Found> newest() const;  // whole in memory

 private:
  struct RankMemory {
    std::shared_ptr<Arena> arena;
    uint64_t slot_bytes = 0;
  };
  struct Step {
    std::map<uint32_t, StagedSnapshot> ranks;
    std::map<uint32_t, Part> parts;  // until the step is handed to the disk
    std::map<std::string, std::string> notes;
    StepProgress progress;
    bool everywhere = false;                  // a turn of all tiers
    bool to_disk = false, to_remote = false;  // handed, or to be handed, to that tier
    bool at_remote = false;                   // the remote tier has it
    Status failed;                            // what keeps it from coming any further
    // Of several nodes: all ranks here have staged it; the coordinator was asked, has skipped it,
    // has decided how it ends; its part is being written.
    bool staged = false, wanted = false, skipped = false, over = false, writing = false;
  };
  SnapshotKey key(uint64_t step) const { return {workers_.generation, step}; }
  Result<Part> read_part(uint32_t rank, uint64_t step, const StagedSnapshot& where) const;
  void whole(uint64_t step);
  std::vector<RankSnapshot> snapshots(const Step& step) const;
  std::function<void(std::function<void()>)> later() const;
  void plan(uint64_t step, bool disk, bool remote);
  void to_disk(uint64_t step, DiskJob job = {});
  void on_disk(uint64_t step, const Status& status);
  void to_remote(uint64_t step, bool from_folder);
  void on_remote(uint64_t step, bool from_folder, const Status& status);
  void stop(Step& step, const Status& why);
  void give_up(const std::vector<SnapshotKey>& keys, const std::string& why);
  void forget_old_steps();
  // agent_job_nodes.cc: a node among several.
  Result<Slot> acquire_together(uint32_t rank, uint64_t step, Overtake policy, bool everywhere);
  void follow(const StepEvent& event);
  void granted(const StepEvent& event);
  void whole_together(const StepEvent& event);
  void replicate(uint64_t step);
  void write_part(const StepEvent& event);
  void part_ended(uint64_t step, const Status& status, const PartSummary& part);
  void failed(uint64_t step, const Status& why, bool dropped);
  void end_slot(uint64_t step);
  static CoordinatorDisk coordinator_disk(const std::shared_ptr<DiskTier>& disk,
                                          uint64_t generation);

  const Workers workers_;
  const std::shared_ptr<DiskTier> disk_;
  const std::shared_ptr<RemoteTier> remote_;
  const std::function<void(std::function<void()>)> post_;
  const std::function<void()> changed_;
  SnapshotTable table_;
  std::map<uint32_t, RankMemory> memory_;
  std::map<uint64_t, Step> steps_;
  uint64_t whole_steps_ = 0;
  std::optional<uint64_t> committed_;   // of several nodes: the newest whose commit was seen
  std::optional<uint64_t> replicated_;  // the newest that all peers have
  Status cut_off_;                      // why the coordinator can't be reached
  // Answers of the disk tier may come when this has gone.
  const std::shared_ptr<bool> alive_ = std::make_shared<bool>(true);
  std::unique_ptr<NodeLink> link_;  // of several nodes; ends first
};

}  // namespace convoy::ckpt
