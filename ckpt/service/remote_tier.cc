// How a step gets into an object store.
#include "ckpt/service/remote_tier.h"

#include "ckpt/io/backoff.h"
#include "ckpt/service/part_builder.h"
#include "ckpt/service/tier_step.h"
#include <convoy/base/fault.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <random>
#include <set>
#include <unistd.h>
#include <utility>
#include <vector>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

// Each try has the store's own tries of single requests inside.
constexpr int kTriesMax = 8;
constexpr int kTriesMaxAtEnd = 2;  // when the agent ends: somebody waits for it
constexpr Nanos kFirstPause = 1s;
constexpr Nanos kLongestPause = 1min;
constexpr uint64_t kBatchBytes = uint64_t{4} << 20;  // that are asked of the source at once
constexpr uint32_t kNode = 0;

// Nothing that waiting could mend.
bool is_final(const Status& status) {
  return status.code() == Code::kFailedPrecondition || status.code() == Code::kInvalidArgument ||
         status.code() == Code::kMismatch || status.code() == Code::kNotFound ||
         status.code() == Code::kAborted;
}

std::string step_text(uint64_t step) {
  return "checkpoint step " + std::to_string(step);
}

// Gives verified chunks of a stream in ascending order, some MiB of them read at once.
class BatchReader {
 public:
  BatchReader(StepSource& source, uint32_t part, uint32_t stream, const Stream& now,
              const Stream* before)
      : source_(source), part_(part), stream_(stream), now_(now), before_(before) {}

  Result<std::span<const std::byte>> operator()(uint64_t chunk) {
    if (next_ == reads_.size()) read_from(chunk);
    const ChunkRead& read = reads_[next_++];
    CONVOY_CHECK(read.id.chunk == chunk, "chunks are asked for in another order");
    if (!read.status.ok()) return read.status;
    return std::span<const std::byte>(read.to, now_.chunk_size(chunk));
  }

 private:
  void read_from(uint64_t first) {
    reads_.clear();
    next_ = 0;
    uint64_t raw = 0;
    uint64_t stored = 0;
    for (uint64_t i = first; i < now_.chunks.size() && raw < kBatchBytes; ++i) {
      if (same_chunk(now_, before_, i)) continue;
      reads_.push_back({{part_, stream_, i}});
      raw += now_.chunk_size(i);
      stored += now_.chunks[i].bytes;
    }
    // New memory each time: after a deadline a disk may still write to the old one.
    memory_ = std::make_shared<std::vector<std::byte>>(raw + stored);
    std::byte* to = memory_->data();
    std::byte* frame = to + raw;
    for (ChunkRead& read : reads_) {
      read.to = std::exchange(to, to + now_.chunk_size(read.id.chunk));
      read.stored = std::exchange(frame, frame + now_.chunks[read.id.chunk].bytes);
    }
    source_.read(reads_, memory_);
  }

  StepSource& source_;
  const uint32_t part_, stream_;
  const Stream& now_;  // as the source has it
  const Stream* const before_;
  std::shared_ptr<std::vector<std::byte>> memory_;
  std::vector<ChunkRead> reads_;
  size_t next_ = 0;
};

}  // namespace

RemoteTier::RemoteTier(RemoteTierOptions options)
    : options_(std::move(options)), next_rules_(options_.rules), thread_([this] { main(); }) {}

RemoteTier::~RemoteTier() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (catalog_ == nullptr || abandoned_) return;
  give_back(*catalog_, store_->name());
}

void RemoteTier::set_rules(const TierRules& rules) {
  const std::lock_guard lock(mutex_);
  next_rules_ = rules;
}

void RemoteTier::submit(RemoteJob job) {
  std::optional<RemoteJob> old;
  const uint64_t step = job.step;
  {
    const std::lock_guard lock(mutex_);
    old = std::exchange(waiting_, std::move(job));
    if (old) ++progress_.skipped;
  }
  changed_.notify_all();
  if (!old) return;
  const Status status(Code::kAborted, step_text(old->step) + " is not uploaded: step " +
                                          std::to_string(step) +
                                          " was ready before the store had taken an earlier one");
  CONVOY_LOG(Warn) << status.message();
  if (old->ended) old->ended(status);
}

bool RemoteTier::withdraw(uint64_t step) {
  const std::lock_guard lock(mutex_);
  if (!waiting_ || waiting_->step != step) return false;
  waiting_.reset();
  return true;
}

void RemoteTier::abandon() {
  {
    const std::lock_guard lock(mutex_);
    abandoned_ = abandoned_ || working_ || waiting_.has_value();
  }
  changed_.notify_all();
}

RemoteTier::Progress RemoteTier::progress() const {
  const std::lock_guard lock(mutex_);
  Progress progress = progress_;
  progress.jobs = (waiting_ ? 1U : 0U) + (working_ ? 1U : 0U);
  return progress;
}

void RemoteTier::main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || abandoned_ || waiting_; });
    if (abandoned_ || !waiting_) return;
    const RemoteJob job = std::move(*waiting_);
    waiting_.reset();
    rules_ = next_rules_;
    working_ = true;
    progress_.step = job.step;
    progress_.status = {};
    work(lock, job);
    working_ = false;
    changed_.notify_all();
  }
}

// Tries until it is done, final, or another step's turn. Holds the lock but for the tries.
void RemoteTier::work(std::unique_lock<std::mutex>& lock, const RemoteJob& job) {
  std::mt19937_64 random{std::random_device{}()};
  lock.unlock();
  if (job.begins) job.begins();
  lock.lock();
  Status status;
  for (int tries = 1;; ++tries) {
    progress_.done = progress_.total = 0;
    ++progress_.tries;
    lock.unlock();
    status = upload(job);
    lock.lock();
    // Perhaps a file that the step refers to: the next try refers to none.
    if (status.code() == Code::kDataLoss) last_ = {};
    if (status.ok() || is_final(status) || abandoned_) break;
    if (tries >= (ending_ ? kTriesMaxAtEnd : kTriesMax)) break;
    const Nanos pause = backoff(tries, kFirstPause, kLongestPause, random());
    if (waiting_) break;
    CONVOY_LOG(Warn) << step_text(job.step)
                     << " is not uploaded yet and is tried again: " << status.message();
    changed_.wait_for(lock, pause, [&] { return abandoned_ || waiting_; });
    if (abandoned_ || waiting_) break;
  }
  status.ok() ? ++progress_.committed : ++progress_.failed;
  progress_.status = status;
  lock.unlock();
  if (job.ended) job.ended(status);
  lock.lock();
}

Status RemoteTier::upload(const RemoteJob& job) {
  CONVOY_RETURN_IF_ERROR(prepare(job));
  CONVOY_ASSIGN_OR_RETURN(const std::unique_ptr<StepSource> source, job.open());
  CONVOY_ASSIGN_OR_RETURN(const Part part, write_streams(job, *source));
  CONVOY_RETURN_IF_ERROR(commit(job, part));
  last_ = part;
  collect(job.step);
  return ok_status();
}

// The claim is taken when the first step needs it: a store that can't be reached must not keep
// training from starting.
Status RemoteTier::prepare(const RemoteJob& job) {
  if (catalog_ != nullptr && generation_ == job.generation) return ok_status();
  fault::die_at("ckpt.remote.claim.kill");
  if (!is_store_uri(options_.where)) {
    return {Code::kInvalidArgument, "the remote checkpoint folder '" + options_.where +
                                        "' is no URI such as s3://… or "
                                        "file:///…"};
  }
  StoreOptions how = options_.store;
  how.bandwidth = rules_.bandwidth;
  CONVOY_ASSIGN_OR_RETURN(auto store, open_store(options_.where, how));
  auto catalog = std::make_unique<Catalog>(*store);
  Claimant claimant = options_.claimant;
  claimant.generation = job.generation;
  CONVOY_RETURN_IF_ERROR(catalog->take_over(claimant, rules_.take_over));
  catalog_ = std::move(catalog);  // before the store that the old one used
  store_ = std::move(store);
  generation_ = job.generation;
  return ok_status();
}

Status RemoteTier::count(uint64_t bytes) {
  const std::lock_guard lock(mutex_);
  progress_.done += bytes;
  return abandoned_ ? Status(Code::kAborted, "the upload was given up: the agent ends")
                    : ok_status();
}

Result<Part> RemoteTier::write_streams(const RemoteJob& job, StepSource& source) {
  fault::die_at("ckpt.remote.data.kill");
  Part out;
  out.step = job.step;
  out.node = kNode;
  out.generation = job.generation;
  PartBuilder builder(out);
  std::set<std::string> old_files;
  for (const File& file : last_.files) old_files.insert(file.path);
  const size_t ranks = std::max<size_t>(1, last_.streams.size());
  const bool refer = rules_.incremental && old_files.size() < ranks * kIncrementalMax;
  uint32_t files = 0;
  ChunkTarget target{*store_, [&] { return catalog_->data_path(job.step, kNode, files++); },
                     rules_.compress, [this](uint64_t bytes) { return count(bytes); }};
  for (uint32_t p = 0; p < source.commit().parts.size(); ++p) {
    CONVOY_ASSIGN_OR_RETURN(const Part* const part, source.part(p));
    {
      const std::lock_guard lock(mutex_);
      for (const Stream& stream : part->streams) progress_.total += stream.bytes;
    }
    for (uint32_t s = 0; s < part->streams.size(); ++s) {
      const Stream& from = part->streams[s];
      Stream stream = from;
      CONVOY_RETURN_IF_ERROR(builder.adopt(*part, stream));
      BatchReader reader(source, p, s, from, refer ? stream_of(last_, from.rank) : nullptr);
      CONVOY_RETURN_IF_ERROR(write_chunks(target, std::ref(reader), last_, refer, builder, stream));
      out.streams.push_back(std::move(stream));
    }
  }
  return out;
}

Status RemoteTier::commit(const RemoteJob& job, const Part& part) {
  Commit head;
  head.step = job.step;
  head.world_size = job.world_size;
  head.mesh = job.mesh;
  head.notes = job.notes;
  return commit_step(*catalog_, std::move(head), part, "ckpt.remote");
}

void RemoteTier::collect(uint64_t step) {
  collect_old_steps(*catalog_, rules_, {}, step, store_->name(), "ckpt.remote");
}

}  // namespace convoy::ckpt
