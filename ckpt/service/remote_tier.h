#pragma once

#include "ckpt/service/tier_step.h"
#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/records.h>
#include <convoy/ckpt/step_source.h>
#include <convoy/ckpt/store.h>

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>

// From a step in memory or in a folder of this machine's to a committed step in an object store.
namespace convoy::ckpt {

struct RemoteTierOptions {
  std::string where;  // a URI, or a path
  Claimant claimant;
  TierRules rules;
  StoreOptions store;  // but for its bandwidth
};

struct RemoteJob {
  uint64_t step = 0;
  uint64_t generation = 0;  // of the workers; a higher one than before claims the folder anew
  uint32_t world_size = 1;
  std::string mesh;
  std::map<std::string, std::string> notes;
  // Opens what the bytes come from, on the tier's thread, at each try.
  std::function<Result<std::unique_ptr<StepSource>>()> open;
  // On the tier's thread: before the bytes are read. And at the end, there or in submit().
  std::function<void()> begins;
  std::function<void(const Status&)> ended;
};

// Uploads one step after the other, on a thread of its own, in a folder of the store that has its
// own claim, retention and incremental saves. One step waits at most: a newer one takes its place,
// so that a slow store gets fewer steps and never an old one. A step that fails is tried
// again kTriesMax times, with growing pauses, until a newer one waits; then it is reported.
//
// Fault points: ckpt.remote.{claim,data,part,commit,collect}.kill, the process dies before that.
class RemoteTier {
 public:
  explicit RemoteTier(RemoteTierOptions options);
  // Waits for the jobs that are left, and gives the folder back.
  ~RemoteTier();

  // From the next job on; the bandwidth from the next generation's.
  void set_rules(const TierRules& rules);
  void submit(RemoteJob job);
  // Takes back a job that has not begun; its `ended` is not called. False: there is none such.
  bool withdraw(uint64_t step);
  // Gives up what is in work as soon as the store answers, and what waits.
  void abandon();

  struct Progress {
    size_t jobs = 0;               // waiting and in work
    uint64_t step = 0;             // in work; if there is none, the last one
    uint64_t done = 0, total = 0;  // bytes of its chunks
    uint64_t committed = 0, skipped = 0, failed = 0, tries = 0;  // steps; uploads begun
    Status status;                                               // of the last one
  };
  Progress progress() const;

 private:
  void main();
  void work(std::unique_lock<std::mutex>& lock, const RemoteJob& job);
  Status upload(const RemoteJob& job);
  Status prepare(const RemoteJob& job);
  Result<Part> write_streams(const RemoteJob& job, StepSource& source);
  Status commit(const RemoteJob& job, const Part& part);
  void collect(uint64_t step);
  Status count(uint64_t bytes);

  const RemoteTierOptions options_;
  TierRules rules_;  // these: the thread's; of the job in work
  std::unique_ptr<Store> store_;
  std::unique_ptr<Catalog> catalog_;
  uint64_t generation_ = 0;  // of the claim
  Part last_;                // what was committed last, for incremental saves
  mutable std::mutex mutex_;
  std::condition_variable changed_;
  std::optional<RemoteJob> waiting_;  // guarded by mutex_, as what follows
  TierRules next_rules_;
  bool working_ = false;
  bool ending_ = false;
  bool abandoned_ = false;
  Progress progress_;
  std::thread thread_;
};

}  // namespace convoy::ckpt
