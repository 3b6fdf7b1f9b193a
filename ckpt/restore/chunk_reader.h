#pragma once

#include "ckpt/restore/load_plan.h"
#include "ckpt/restore/scatter.h"

#include <memory>
#include <mutex>
#include <span>
#include <vector>

namespace convoy::ckpt {

// What to do about one chunk of the plan.
struct ChunkJob {
  uint32_t chunk = 0;                // index into LoadPlan::chunks
  std::byte* keep = nullptr;         // read to here, and take apart from here
  const std::byte* given = nullptr;  // raw and verified already: only take apart
};

// The threads of a load: each takes a batch of chunks, reads it, and takes it apart. One call at a
// time. What it is given must outlive it; of several readers of one plan each has its own report,
// and all the same scatter.
class ChunkReader {
 public:
  // kInvalidArgument if staging_bytes_max has no room for a chunk.
  static Result<std::unique_ptr<ChunkReader>> create(PartHomes& homes, const LoadPlan& plan,
                                                     const LoadOptions& options, LoadReport& report,
                                                     Scatter& scatter);
  // Blocks until all jobs are done, or one has failed and nothing is in flight. `keeper` keeps the
  // memory of ChunkJob::keep alive, as LoadOptions::owner does that of the destinations.
  Status run(std::span<const ChunkJob> jobs, std::shared_ptr<const void> keeper = nullptr);
  // What all calls have done.
  LoadProgress progress();

 private:
  struct Owners;
  struct Batch;
  struct Item;

  ChunkReader(PartHomes& homes, const LoadPlan& plan, const LoadOptions& options,
              LoadReport& report, Scatter& scatter);
  Status choose_sizes();
  Item item_of(const ChunkJob& job);
  void work(size_t thread);
  bool take(Batch& batch);
  Status read(Batch& batch, size_t thread);
  Status finish(Item& item, std::shared_ptr<const void> owner);
  Status mended(Item& item, const std::shared_ptr<const void>& owner);
  Status failed(const Item& item, const Status& status) const;
  bool account(const Batch& batch, const Status& status);

  PartHomes& homes_;
  const LoadPlan& plan_;
  const LoadOptions& options_;
  LoadReport& report_;  // guarded by mutex_ while threads run
  Scatter& scatter_;
  size_t threads_ = 1;
  size_t slot_bytes_ = 0;
  std::vector<std::shared_ptr<class Staging>> staging_;  // one a thread, made when first needed

  std::mutex mutex_;
  std::span<const ChunkJob> jobs_;
  std::shared_ptr<const void> keeper_;
  size_t next_ = 0;
  Status failure_;
  LoadProgress progress_;
  std::mutex progress_mutex_;
};

}  // namespace convoy::ckpt
