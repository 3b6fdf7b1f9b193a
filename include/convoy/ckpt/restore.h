#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/state.h>
#include <convoy/ckpt/step_source.h>

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <utility>
#include <vector>

// Fills a rank's memory from a committed step, whatever mesh and layout wrote it.
namespace convoy::ckpt {

// Threads of one load at most; more are refused.
inline constexpr int kLoadThreadsMax = 64;
// Bytes that one thread asks a source for at once, at most (a chunk that is larger comes alone).
inline constexpr size_t kLoadBatchBytes = size_t{4} << 20;
// Regions that a message about missing ones names; the report has all.
inline constexpr size_t kMissingNamedMax = 8;

struct LoadProgress {
  uint64_t chunks = 0;
  uint64_t chunks_total = 0;
  uint64_t bytes = 0;  // of those chunks, raw
  uint64_t bytes_total = 0;
};

struct LoadOptions {
  // Each takes a batch of chunks at a time: asks the source for it, checks it, and puts it where it
  // belongs, while the others are waiting for theirs or doing the same. So more threads than cores
  // make reading deeper. 1 … kLoadThreadsMax; fewer run where staging_bytes_max has no room for
  // all.
  int threads = 4;
  // Bound on memory beside the destinations: chunks that are not read in place, and compressed
  // bytes. The records of the parts and the plan come on top (some 100 bytes a chunk and piece).
  // kInvalidArgument if one chunk does not fit.
  size_t staging_bytes_max = size_t{64} << 20;
  // Whether chunks that lie in one dense, aligned piece of a destination are read right there.
  bool in_place = true;
  // Leave tensors that the step does not have alone and list them in the report. (A tensor that it
  // has in part is still an error.)
  bool skip_missing = false;
  // The same step elsewhere (equal step and claim; others are passed over): asked, in this order,
  // for a chunk or a part's record that `source` has not or has damaged. Must outlive the load.
  std::vector<StepSource*> other_sources = {};
  // Called after each batch, by any of the threads but one at a time; false stops the load
  // (kAborted). Must not call the load's own objects.
  std::function<bool(const LoadProgress&)> progress = {};
  // Keeps the destinations' memory alive. Held beyond the end of a load only after
  // kDeadlineExceeded, until the kernel lets go of it. Without one, the caller must keep it then.
  std::shared_ptr<const void> owner = {};
};

struct MissingTensor {
  std::string name;
  std::string box;  // "[0:4, 8:16]"; empty: the step does not have the tensor at all
};

struct LoadReport {
  uint64_t step = 0;
  uint64_t bytes_wanted = 0;  // of the destinations, as the step stores them (its dtypes, raw)
  uint64_t bytes_read = 0;    // from sources, in chunks as they are stored; records not counted
  uint64_t chunks = 0;        // read
  uint64_t chunks_in_place = 0;
  size_t staging_peak = 0;                      // bytes allocated for staging
  uint64_t bytes_sent = 0, bytes_received = 0;  // chunks, from and to other ranks (load_together)
  std::vector<MissingTensor> missing;           // what was asked for and is not there
  std::vector<std::string> mended;              // what had to come from another source, and why
  // Newer steps that load_newest() had to pass over, newest first, and why.
  std::vector<std::pair<CommitKey, Status>> passed_over;
};

// Fills the boxes of `wanted` from the step: by tensors' names and boxes alone, so any mesh can
// load what any mesh saved. Only chunks that hold wanted bytes are read, each once; each is checked
// before the load says ok. `report`, if given, is filled in as far as things went.
//
// Dtypes: where the wanted one differs from the saved one, values are converted on the way:
// float32, float64, float16 and bfloat16 among each other, to nearest, ties to even, and out of
// range to infinity; integers to wider ones that hold all their values.
//
// Blocks for as long as the source takes; a source has its own deadlines. Errors before anything is
// read or written: kInvalidArgument (options; `wanted` itself; a shape or dtype that can't be, with
// both); kNotFound, naming tensors and boxes that the step does not hold. Later ones: kDataLoss
// naming tensor, file and offset of a chunk that no source has whole; kAborted; what the source
// says. After those the destinations' content is undefined.
Status load(StepSource& source, const State& wanted, const LoadOptions& options = {},
            LoadReport* report = nullptr);

// What of the step's tensors nobody gave to it: a program that forgot a shard has saved such a
// step, and no load can fill it whole. Reads the parts' records, no chunks. kDataLoss: a damaged
// part.
Result<std::vector<MissingTensor>> find_holes(StepSource& source);

// Opens a committed step for load_newest(): first the source to read from, then others to mend it.
using OpenStep =
    std::function<Result<std::vector<std::unique_ptr<StepSource>>>(const Commit& commit)>;

// Loads the newest committed step of the folder; if some of it is lost (kDataLoss of its commit
// record, of a part or of a chunk, and neither what `open` gives nor options.other_sources can mend
// it), the next older one, and so on. Each one passed over is in the report and in the log
// (warning). Returns what was loaded. kDataLoss names all steps if none could be loaded; kNotFound
// if there is none; other failures, such as a tensor that the step does not hold or a commit record
// of a newer Convoy, end it at once: an older step would hide them. The destinations are as after
// load().
Result<Commit> load_newest(Catalog& catalog, const OpenStep& open, const State& wanted,
                           const LoadOptions& options = {}, LoadReport* report = nullptr);

}  // namespace convoy::ckpt
