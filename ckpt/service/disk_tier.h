#pragma once

#include "ckpt/service/tier_step.h"
#include <convoy/base/status.h>
#include <convoy/ckpt/arena.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/disk_file.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/store.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <set>
#include <string>
#include <thread>
#include <vector>

// From snapshots in memory to a committed step in a folder of this machine's.
namespace convoy::ckpt {

// One rank's snapshot. The part has one stream, whose chunks lie raw, one behind the other, from
// the span's beginning, and no files.
struct RankSnapshot {
  std::span<const std::byte> stream;
  Part part;
  std::shared_ptr<const Arena> arena;  // keeps the span alive
};

struct DiskTierOptions {
  std::string folder;  // made if it is missing
  Claimant claimant;   // generation: the jobs'
  TierRules rules;
};

// What a node of several does of a step, one after the other; a node alone does all of it at once.
enum class DiskWork : uint8_t {
  kStep,    // data, part and commit
  kClaim,   // take the folder over
  kPart,    // data and part, under the claim that the coordinator has
  kCommit,  // the commit record of all nodes' parts
};

// Where a job leaves what it has found out, for its `ended`.
struct DiskResult {
  uint64_t claim = 0;  // kClaim
  std::string who;
  PartSummary part;  // kPart
};

struct DiskJob {
  uint64_t step = 0;
  DiskWork work = DiskWork::kStep;
  uint32_t node = 0;
  bool joins = false;                  // kPart, where another node has taken the folder over
  uint64_t claim = 0;                  // kPart: that node's, and
  std::string who;                     // its owner record's
  std::optional<uint64_t> base;        // kPart: the committed step whose chunks may be referred to
  Commit record;                       // kCommit
  std::vector<File> files;             // kCommit: that the parts say are new
  std::shared_ptr<DiskResult> result;  // kClaim, kPart; shared with `ended`
  uint64_t generation = 0;  // of the workers; a higher one than before claims the folder anew
  uint32_t world_size = 1;
  std::string mesh;
  std::vector<RankSnapshot> ranks;
  std::map<std::string, std::string> notes;
  // On the tier's thread: before the bytes are read, and at the end.
  std::function<void()> begins;
  std::function<void(const Status&)> ended;
};

// Writes one step after the other, on a thread of its own. Data files first, durable; then the
// part, then the commit record; then old steps go. A step that fails is tried again kTriesMax times
// with growing pauses, and then reported; later steps are not held up by it.
//
// The first job claims the folder. A folder that another job has, or a newer generation: each job
// fails with that text, and nothing in it is touched.
class DiskTier {
 public:
  explicit DiskTier(DiskTierOptions options);
  // Waits for the jobs that are queued, and gives the folder back.
  ~DiskTier();

  // From the next job on; the bandwidth at once.
  void set_rules(const TierRules& rules);
  void submit(DiskJob job);
  // Takes back a job that has not begun; its `ended` is not called. False: it has.
  bool withdraw(uint64_t step);
  // The step stays in the folder, whatever the rules say, until it is unpinned: another tier
  // reads it there.
  void pin(uint64_t step);
  void unpin(uint64_t step);
  // Blocks until no job is left.
  void drain();
  size_t jobs() const;  // queued and in work
  // How long it has been at its present job; 0: there is none.
  Nanos busy_for() const;

  struct Progress {
    size_t jobs = 0;               // as jobs()
    uint64_t step = 0;             // in work; if there is none, the last one
    uint64_t done = 0, total = 0;  // bytes of its data
    Status failed;                 // why the last one did not come to the disk, if it did not
  };
  Progress progress() const;

 private:
  void main();
  struct NewFile {
    std::string path;
    std::vector<std::span<const std::byte>> spans;
    uint64_t bytes = 0;
    std::shared_ptr<const Arena> owner;
  };
  Status prepare(const DiskJob& job);
  Status join(const DiskJob& job);
  Status write(const DiskJob& job);
  Result<Part> write_streams(const DiskJob& job);
  Status write_compressed(const DiskJob& job, const RankSnapshot& rank, bool refers,
                          class PartBuilder& builder, Stream& stream);
  Status write_files(const std::vector<NewFile>& files);
  Status write_part(const DiskJob& job);
  Status commit(const DiskJob& job, const Part& part);
  void collect(uint64_t step);

  const DiskTierOptions options_;
  TierRules rules_;                     // these: the thread's; of the job in work
  std::shared_ptr<DiskEngine> engine_;  // set under mutex_, by the thread
  std::unique_ptr<Store> store_;
  std::unique_ptr<Catalog> catalog_;
  uint64_t generation_ = 0;  // of the claim
  uint64_t newest_ = 0;      // step committed under this claim; the thread's own
  bool took_over_ = false;
  Part last_;     // what was committed last, for incremental saves
  Part written_;  // by kPart: becomes last_ when it is committed
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  uint32_t compressed_files_ = 0;
  std::deque<DiskJob> queued_;  // guarded by mutex_, as what follows
  TierRules next_rules_;
  std::set<uint64_t> pins_;
  // The step after which old ones were removed last, if pins may have kept some. The thread's own.
  std::optional<uint64_t> kept_for_store_;
  bool working_ = false;
  TimePoint began_{};  // to work on it
  bool ending_ = false;
  uint64_t step_ = 0;
  Status last_status_;
  std::atomic<uint64_t> total_{0};
  // Shared with the engine, which may answer for a block that was given up after this has gone.
  const std::shared_ptr<std::atomic<uint64_t>> done_ = std::make_shared<std::atomic<uint64_t>>(0);
  std::thread thread_;
};

}  // namespace convoy::ckpt
