// How a step gets onto the disk: which chunks are written, in which order things become durable,
// and what happens when something fails. Fault points: ckpt.tier.{data,part,commit,collect}.kill,
// the process dies before that.
#include "ckpt/service/disk_tier.h"

#include "ckpt/service/part_builder.h"
#include "ckpt/service/tier_step.h"
#include <convoy/base/fault.h>
#include <convoy/base/log.h>

#include <chrono>
#include <csignal>
#include <filesystem>
#include <numeric>
#include <set>
#include <utility>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

constexpr int kTriesMax = 3;
constexpr auto kPause = 1s;  // before the second try; four times as long before each further one
// A network file system may show what another node has written so much later.
constexpr auto kSeenWithin = 10s;
constexpr auto kLookEvery = 200ms;

// Chunks [first, first + count) of a snapshot that have to be written.
struct Changed {
  std::vector<std::span<const std::byte>> spans;
  std::vector<uint64_t> chunks;  // of them
  uint64_t bytes = 0;
};

Changed changed_chunks(const RankSnapshot& rank, const Stream& now, const Stream* before) {
  Changed out;
  for (uint64_t i = 0; i < now.chunks.size(); ++i) {
    if (same_chunk(now, before, i)) continue;
    const auto span = rank.stream.subspan(i * now.chunk_bytes, now.chunk_size(i));
    if (!out.spans.empty() && out.spans.back().data() + out.spans.back().size() == span.data()) {
      out.spans.back() = {out.spans.back().data(), out.spans.back().size() + span.size()};
    } else {
      out.spans.push_back(span);
    }
    out.chunks.push_back(i);
    out.bytes += span.size();
  }
  return out;
}

}  // namespace

DiskTier::DiskTier(DiskTierOptions options)
    : options_(std::move(options)), next_rules_(options_.rules), thread_([this] { main(); }) {}

DiskTier::~DiskTier() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
  }
  changed_.notify_all();
  thread_.join();
  if (catalog_ == nullptr || !took_over_) return;
  // What stayed only until the store had it.
  if (kept_for_store_) {
    collect_old_steps(*catalog_, rules_, std::move(pins_), *kept_for_store_, options_.folder,
                      "ckpt.tier");
  }
  give_back(*catalog_, options_.folder);
}

void DiskTier::set_rules(const TierRules& rules) {
  const std::lock_guard lock(mutex_);
  next_rules_ = rules;
  if (engine_ != nullptr) engine_->set_bandwidth(rules.bandwidth);
}

void DiskTier::submit(DiskJob job) {
  {
    const std::lock_guard lock(mutex_);
    queued_.push_back(std::move(job));
  }
  changed_.notify_all();
}

bool DiskTier::withdraw(uint64_t step) {
  const std::lock_guard lock(mutex_);
  return std::erase_if(queued_, [&](const DiskJob& job) { return job.step == step; }) != 0;
}

void DiskTier::pin(uint64_t step) {
  const std::lock_guard lock(mutex_);
  pins_.insert(step);
}

void DiskTier::unpin(uint64_t step) {
  const std::lock_guard lock(mutex_);
  pins_.erase(step);
}

void DiskTier::drain() {
  std::unique_lock lock(mutex_);
  changed_.wait(lock, [&] { return queued_.empty() && !working_; });
}

size_t DiskTier::jobs() const {
  const std::lock_guard lock(mutex_);
  return queued_.size() + (working_ ? 1 : 0);
}

Nanos DiskTier::busy_for() const {
  const std::lock_guard lock(mutex_);
  return working_ ? Clock::system().now() - began_ : Nanos(0);
}

DiskTier::Progress DiskTier::progress() const {
  const std::lock_guard lock(mutex_);
  return {queued_.size() + (working_ ? 1 : 0), step_, *done_, total_, last_status_};
}

void DiskTier::main() {
  std::unique_lock lock(mutex_);
  for (;;) {
    changed_.wait(lock, [&] { return ending_ || !queued_.empty(); });
    if (queued_.empty()) return;
    const DiskJob job = std::move(queued_.front());
    queued_.pop_front();
    rules_ = next_rules_;
    working_ = true;
    began_ = Clock::system().now();
    step_ = job.step;
    last_status_ = {};
    *done_ = total_ = 0;
    lock.unlock();
    if (job.begins) job.begins();
    Status status;
    for (int i = 0; i < kTriesMax; ++i) {
      if (i > 0) {
        CONVOY_LOG(Warn) << "checkpoint step " << job.step
                         << " failed and is tried again: " << status.message();
        std::this_thread::sleep_for(kPause * (1 << (2 * (i - 1))));
      }
      status = write(job);
      // Nothing that waiting could mend.
      if (status.ok() || status.code() == Code::kFailedPrecondition ||
          status.code() == Code::kInvalidArgument || status.code() == Code::kMismatch) {
        break;
      }
    }
    if (job.ended) job.ended(status);
    // Not before: to remove a large step takes a third of the time that it took to write one.
    const bool committed = job.work == DiskWork::kStep || job.work == DiskWork::kCommit;
    if (status.ok() && committed) collect(job.step);
    lock.lock();
    working_ = false;
    last_status_ = status;
    changed_.notify_all();
  }
}

// Made when the first step needs them: a folder that is not there yet, or held by another job, must
// not keep training from starting.
Status DiskTier::prepare(const DiskJob& job) {
  if (engine_ == nullptr) {
    CONVOY_ASSIGN_OR_RETURN(auto engine, DiskEngine::create());
    const std::lock_guard lock(mutex_);
    engine->set_bandwidth(next_rules_.bandwidth);
    engine_ = std::move(engine);
  }
  if (job.joins) return join(job);
  // A job that has gone back saves a step again, with other content if the first had been wrong:
  // under a new claim, which makes it newer than all that was saved before.
  const bool goes_back = job.work == DiskWork::kStep && job.step <= newest_;
  if (catalog_ != nullptr && took_over_ && generation_ == job.generation && !goes_back) {
    return ok_status();
  }
  std::error_code error;
  std::filesystem::create_directories(options_.folder, error);
  if (error) {
    return {Code::kInvalidArgument,
            "the checkpoint folder " + options_.folder + " can't be made: " + error.message()};
  }
  CONVOY_ASSIGN_OR_RETURN(auto store, open_local_store(options_.folder));
  auto catalog = std::make_unique<Catalog>(*store);
  Claimant claimant = options_.claimant;
  claimant.generation = job.generation;
  CONVOY_RETURN_IF_ERROR(catalog->take_over(claimant, rules_.take_over));
  catalog_ = std::move(catalog);  // before the store that the old one used
  store_ = std::move(store);
  generation_ = job.generation;
  took_over_ = true;
  newest_ = 0;
  return ok_status();
}

// The coordinator's owner record is the proof that both see the same folder.
Status DiskTier::join(const DiskJob& job) {
  if (catalog_ != nullptr && !took_over_ && catalog_->claim() == job.claim) return ok_status();
  catalog_.reset();
  took_over_ = false;
  Claimant claimant = options_.claimant;
  claimant.generation = job.generation;
  const Deadline deadline = Deadline::after(kSeenWithin);
  for (;;) {
    Result<std::unique_ptr<Store>> store = open_local_store(options_.folder);
    if (store.ok()) {
      auto catalog = std::make_unique<Catalog>(**store);
      const Result<std::optional<Owner>> owner = catalog->owner();
      if (owner.ok() && owner->has_value() && (*owner)->who == job.who &&
          catalog->join(claimant).ok() && catalog->claim() == job.claim) {
        catalog_ = std::move(catalog);
        store_ = std::move(store).value();
        return ok_status();
      }
    }
    if (deadline.passed()) break;
    std::this_thread::sleep_for(kLookEvery);
  }
  return {Code::kFailedPrecondition,
          "the checkpoint folder " + options_.folder + " is not the one that node 0 (" + job.who +
              ") has: what it wrote there is not seen here. Give a folder on a file system that "
              "all machines mount, or one in an object store that all reach"};
}

// On one node of several. The part counts when the coordinator has committed it.
Status DiskTier::write_part(const DiskJob& job) {
  if (!job.base) {
    last_ = {};
  } else if (written_.step == *job.base) {
    last_ = written_;
  }
  written_ = {};
  CONVOY_ASSIGN_OR_RETURN(const Part part, write_streams(job));
  fault::die_at("ckpt.tier.part.kill");
  CONVOY_ASSIGN_OR_RETURN(const PartRef ref, catalog_->write_part(part));
  CONVOY_ASSIGN_OR_RETURN(job.result->part, summarise(ref, part));
  written_ = part;
  fault::die_at("ckpt.node.wrote.kill");
  return ok_status();
}

Status DiskTier::write(const DiskJob& job) {
  CONVOY_RETURN_IF_ERROR(prepare(job));
  switch (job.work) {
    case DiskWork::kClaim:
      *job.result = {catalog_->claim(), options_.claimant.who, {}};
      return ok_status();
    case DiskWork::kPart:
      return write_part(job);
    case DiskWork::kCommit:
      fault::die_at("ckpt.tier.commit.kill");
      return catalog_->commit_vouched(job.record, job.files);
    case DiskWork::kStep:
      break;
  }
  CONVOY_ASSIGN_OR_RETURN(const Part part, write_streams(job));
  CONVOY_RETURN_IF_ERROR(commit(job, part));
  newest_ = job.step;
  last_ = part;
  return ok_status();
}

Result<Part> DiskTier::write_streams(const DiskJob& job) {
  Part part;
  part.step = job.step;
  part.node = job.node;
  part.generation = job.generation;
  PartBuilder builder(part);
  std::set<std::string> old_files;
  for (const File& file : last_.files) old_files.insert(file.path);
  const bool refers = rules_.incremental && old_files.size() < job.ranks.size() * kIncrementalMax;
  std::vector<NewFile> files;
  compressed_files_ = 0;
  *done_ = total_ = 0;
  for (const RankSnapshot& rank : job.ranks) {
    Stream stream = rank.part.streams.front();
    CONVOY_RETURN_IF_ERROR(builder.adopt(rank.part, stream));
    if (rules_.compress > 0) {
      CONVOY_RETURN_IF_ERROR(write_compressed(job, rank, refers, builder, stream));
      part.streams.push_back(std::move(stream));
      continue;
    }
    const Stream* before = refers ? stream_of(last_, stream.rank) : nullptr;
    const Changed changed = changed_chunks(rank, stream, before);
    const auto index = static_cast<uint32_t>(files.size());
    const std::string path = catalog_->data_path(job.step, job.node, index);
    uint64_t offset = 0;
    size_t next = 0;
    for (uint64_t i = 0; i < stream.chunks.size(); ++i) {
      Chunk& chunk = stream.chunks[i];
      if (next < changed.chunks.size() && changed.chunks[next] == i) {
        chunk.file = builder.file(path, changed.bytes);
        chunk.offset = offset;
        offset += chunk.bytes;
        ++next;
      } else {
        const Chunk& old = before->chunks[i];
        const File& file = last_.files[old.file];
        chunk = old;
        chunk.file = builder.file(file.path, file.bytes);
      }
    }
    if (!changed.chunks.empty()) {
      files.push_back({path, changed.spans, changed.bytes, rank.arena});
    }
    part.streams.push_back(std::move(stream));
  }
  if (rules_.compress == 0) CONVOY_RETURN_IF_ERROR(write_files(files));
  return part;
}

// Frames have no size before they are made, so they go through the store, one behind the other.
Status DiskTier::write_compressed(const DiskJob& job, const RankSnapshot& rank, bool refers,
                                  PartBuilder& builder, Stream& stream) {
  fault::die_at("ckpt.tier.data.kill");
  total_ += stream.bytes;
  const ChunkTarget target{
      *store_, [&] { return catalog_->data_path(job.step, job.node, compressed_files_++); },
      rules_.compress,
      [this](uint64_t bytes) {
        *done_ += bytes;
        return ok_status();
      }};
  const ReadChunk read = [&](uint64_t i) -> Result<std::span<const std::byte>> {
    return rank.stream.subspan(i * stream.chunk_bytes, stream.chunk_size(i));
  };
  return write_chunks(target, read, last_, refers, builder, stream);
}

Status DiskTier::write_files(const std::vector<NewFile>& files) {
  fault::die_at("ckpt.tier.data.kill");
  std::vector<std::unique_ptr<DiskWriter>> writers;
  *done_ = 0;
  total_ = std::accumulate(files.begin(), files.end(), uint64_t{0},
                           [](uint64_t sum, const NewFile& file) { return sum + file.bytes; });
  for (const NewFile& file : files) {
    const std::filesystem::path path = std::filesystem::path(options_.folder) / file.path;
    std::error_code error;
    std::filesystem::create_directories(path.parent_path(), error);
    if (error) return errno_status("making " + path.parent_path().string(), error.value());
    CONVOY_ASSIGN_OR_RETURN(
        auto writer,
        engine_->create_file(path.string(), file.bytes,
                             [sum = done_, before = uint64_t{0}](uint64_t done) mutable {
                               *sum += done - before;
                               before = done;
                             }));
    for (const auto& span : file.spans) {
      CONVOY_RETURN_IF_ERROR(writer->append(span, file.owner));
    }
    writers.push_back(std::move(writer));
  }
  for (auto& writer : writers) CONVOY_RETURN_IF_ERROR(writer->finish());
  return ok_status();
}

// Writing the part makes the folder's names durable too: it lies beside the data files.
Status DiskTier::commit(const DiskJob& job, const Part& part) {
  Commit head;
  head.step = job.step;
  head.world_size = job.world_size;
  head.mesh = job.mesh;
  head.notes = job.notes;
  return commit_step(*catalog_, std::move(head), part, "ckpt.tier");
}

void DiskTier::collect(uint64_t step) {
  std::set<uint64_t> pins;
  {
    const std::lock_guard lock(mutex_);
    pins = pins_;
  }
  kept_for_store_ = pins.empty() ? std::nullopt : std::optional(step);
  collect_old_steps(*catalog_, rules_, std::move(pins), step, options_.folder, "ckpt.tier");
}

}  // namespace convoy::ckpt
