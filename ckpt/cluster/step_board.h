#pragma once

#include "ckpt/cluster/node_set.h"
#include "ckpt/service/cluster.h"
#include "ckpt/service/snapshot_table.h"

#include <deque>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

// What the coordinator decides: which steps are saved, when they are written, and when they have
// failed. Pure: time and reports come in, events come out. One thread at a time.
namespace convoy::ckpt {

// A step's way: granted (a slot in every node's memory) → whole (all nodes have staged it) →
// writing (one step at a time) → committed. It fails as a whole, on all nodes, for one reason. Its
// slot is free again when every node has said that it no longer needs it, or has gone.
class StepBoard {
 public:
  struct Options {
    uint32_t nodes = 1;
    int slots = 2;
    bool disk = true;
    uint64_t disk_every = 1;
    bool replicate = false;
    Nanos timeout = std::chrono::minutes(10);
  };
  explicit StepBoard(const Options& options);

  // ---- what nodes report; repeating a report changes nothing
  void has_rank(uint32_t node, uint32_t rank) { ranks_[node].insert(rank); }
  // A node's agent is here, for the first time or anew: what it had before is lost.
  void joined(uint32_t node);
  void gone(uint32_t node, const std::string& why);
  // `everywhere`: to disk, whatever disk_every says.
  void want(uint64_t step, Overtake policy, TimePoint now, bool everywhere = false);
  void staged(uint32_t node, uint64_t step, TimePoint now);
  void wrote(uint32_t node, uint64_t step, const Status& status, TimePoint now);
  void replicated(uint32_t node, uint64_t step, const Status& status);
  void lost(uint64_t step, const Status& why);

  // ---- what the folder says
  void claimed(const Result<CoordinatorDisk::Claimed>& claim, TimePoint now);
  void committed(uint64_t step, const Status& status, TimePoint now);

  // Fails the steps whose time is over, naming who is missing.
  void tick(TimePoint now);

  // ---- what is to be done
  std::vector<StepEvent> take_events();
  bool take_claim();                      // the folder has to be claimed
  std::optional<uint64_t> take_commit();  // all parts of that step are written

  // Whether the node's part is still to come.
  bool awaits_part(uint32_t node, uint64_t step) const;
  std::string node_text(uint32_t node) const;  // "node 2 (ranks 4–7)"

 private:
  enum class Phase { kStaging, kWaiting, kWriting, kCommitting, kOver };
  struct Step {
    Phase phase = Phase::kStaging;
    NodeSet staged, ended, replicas;
    bool replicating = false;
    bool everywhere = false;
    TimePoint since, replicas_since;
  };
  struct Want {
    uint64_t step;
    Overtake policy;
    bool everywhere;
  };
  SnapshotKey key(uint64_t step) const { return {0, step}; }
  Step& add_step(uint64_t step, Phase phase, TimePoint now);
  void say(StepEvent::Kind kind, uint64_t step, Status status = {});
  void fail(uint64_t step, const Status& why);
  void end_replicas(uint64_t step, const Status& status);
  void release(uint64_t step, Step& at);
  void whole(uint64_t step, TimePoint now);
  void write_next(TimePoint now);
  void retry(TimePoint now);
  std::string missing(const NodeSet& there) const;
  void forget();

  const Options options_;
  SnapshotTable table_;
  std::map<uint64_t, Step> steps_;
  std::deque<Want> wants_;      // that found no room
  std::deque<uint64_t> queue_;  // whole, to be written
  std::optional<uint64_t> writing_, commit_, replicated_;
  uint64_t whole_steps_ = 0;
  bool ask_claim_ = false, claiming_ = false;
  std::optional<CoordinatorDisk::Claimed> claim_;
  std::map<uint32_t, std::set<uint32_t>> ranks_;
  std::map<uint32_t, std::string> away_;  // nodes that were here and have gone: why
  std::vector<StepEvent> events_;
};

}  // namespace convoy::ckpt
