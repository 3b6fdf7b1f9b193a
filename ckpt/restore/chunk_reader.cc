// Threads that each carry a batch from the source to its destinations. There is no queue between
// reading and checking: while one thread checks and copies, the others' reads are in flight.
#include "ckpt/restore/chunk_reader.h"

#include "ckpt/restore/staging.h"
#include "ckpt/restore/verify.h"
#include <convoy/base/log.h>
#include <convoy/base/units.h>

#include <algorithm>
#include <map>
#include <set>
#include <system_error>
#include <thread>

namespace convoy::ckpt {
namespace {

constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace

// All memory that a source may write to.
struct ChunkReader::Owners {
  std::shared_ptr<Staging> staging;
  std::shared_ptr<const void> destinations, kept;
};

// A chunk on its way.
struct ChunkReader::Item {
  const ChunkWork* work = nullptr;
  StepSource* source = nullptr;
  ChunkId id;                      // at the source
  std::byte* to = nullptr;         // in place or kept; null: staged, until read() places it
  const std::byte* raw = nullptr;  // where it is in memory, if it need not be read
  bool verified = false;           // raw was given
  bool in_place = false;
  bool kept = false;
  size_t staged = 0, stored = 0;  // bytes that it needs in staging
  Status status;
};

struct ChunkReader::Batch {
  std::vector<Item> items;
  size_t staging = 0;
  uint64_t bytes = 0;
};

ChunkReader::ChunkReader(PartHomes& homes, const LoadPlan& plan, const LoadOptions& options,
                         LoadReport& report, Scatter& scatter)
    : homes_(homes), plan_(plan), options_(options), report_(report), scatter_(scatter) {}

Result<std::unique_ptr<ChunkReader>> ChunkReader::create(PartHomes& homes, const LoadPlan& plan,
                                                         const LoadOptions& options,
                                                         LoadReport& report, Scatter& scatter) {
  if (options.threads < 1 || options.threads > kLoadThreadsMax) {
    return Status(Code::kInvalidArgument, "a load with " + std::to_string(options.threads) +
                                              " threads; 1 to " + std::to_string(kLoadThreadsMax) +
                                              " are possible");
  }
  std::unique_ptr<ChunkReader> reader(new ChunkReader(homes, plan, options, report, scatter));
  CONVOY_RETURN_IF_ERROR(reader->choose_sizes());
  return reader;
}

// Slots are equal, so that any thread can take any chunk.
Status ChunkReader::choose_sizes() {
  size_t largest = 0, total = 0;
  for (uint32_t i = 0; i < plan_.chunks.size(); ++i) {
    const Item item = item_of({i});
    const size_t need = item.staged + item.stored;
    largest = std::max(largest, need);
    total += need;
    progress_.bytes_total += plan_.size_of(plan_.chunks[i]);
  }
  progress_.chunks_total = plan_.chunks.size();
  threads_ = static_cast<size_t>(options_.threads);
  if (largest > options_.staging_bytes_max) {
    return {Code::kInvalidArgument,
            "a chunk of " + homes_.source().name() + " needs " + format_bytes(largest) +
                " of staging, but staging_bytes_max is " +
                format_bytes(options_.staging_bytes_max) + "; allow at least that"};
  }
  if (largest > 0) threads_ = std::min(threads_, options_.staging_bytes_max / largest);
  slot_bytes_ = std::min({options_.staging_bytes_max / threads_, std::max(kLoadBatchBytes, largest),
                          std::max(total, largest)});
  if (slot_bytes_ > kHugePage && slot_bytes_ / kHugePage * kHugePage >= largest) {
    slot_bytes_ = slot_bytes_ / kHugePage * kHugePage;  // so that rounding up costs nothing
  }
  staging_.resize(threads_);
  return ok_status();
}

ChunkReader::Item ChunkReader::item_of(const ChunkJob& job) {
  Item item;
  item.work = &plan_.chunks[job.chunk];
  const uint32_t size = plan_.size_of(*item.work);
  if (job.given != nullptr) {
    item.raw = job.given;
    item.verified = true;
    return item;
  }
  item.id = homes_.there(item.work->id, item.source);
  const Chunk& chunk = plan_.chunk_of(*item.work);
  const bool zstd = chunk.codec == Codec::kZstd;
  if (job.keep != nullptr) {
    item.to = job.keep;
    item.kept = true;
  } else if (std::byte* to = plan_.dense_destination(*item.work);
             to != nullptr && options_.in_place &&
             (zstd || reinterpret_cast<uintptr_t>(to) % item.source->memory_align() == 0)) {
    item.to = to;
    item.in_place = true;
  } else {
    item.raw = item.source->view(item.id);
    item.staged = item.raw == nullptr ? round_up(size, kDiskAlign) : 0;
  }
  if (zstd) item.stored = round_up(chunk.bytes, 64);
  return item;
}

// The next jobs, as many as fit; false if there are none or the load has failed.
bool ChunkReader::take(Batch& batch) {
  const std::lock_guard lock(mutex_);
  batch = {};
  while (failure_.ok() && next_ < jobs_.size()) {
    Item item = item_of(jobs_[next_]);
    const uint64_t size = plan_.size_of(*item.work);
    const size_t staging = item.staged + item.stored;
    const bool fits =
        batch.bytes + size <= kLoadBatchBytes && batch.staging + staging <= slot_bytes_;
    if (!batch.items.empty() && !fits) break;
    batch.staging += staging;
    batch.bytes += size;
    batch.items.push_back(std::move(item));
    ++next_;
  }
  return !batch.items.empty();
}

// Staged chunks lie one behind the other, so that neighbours in a file are one request.
Status ChunkReader::read(Batch& batch, size_t thread) {
  std::shared_ptr<Staging>& staging = staging_[thread];
  if (staging == nullptr && batch.staging > 0) {
    staging = std::make_shared<Staging>(slot_bytes_);
    const std::lock_guard lock(mutex_);
    report_.staging_peak += slot_bytes_;
  }
  std::byte* at = staging == nullptr ? nullptr : staging->data();
  const auto owners = std::make_shared<const Owners>(Owners{staging, options_.owner, keeper_});
  std::map<StepSource*, std::vector<std::pair<ChunkRead, Item*>>> reads;
  for (Item& item : batch.items) {
    if (item.raw != nullptr) continue;
    if (item.staged > 0) {
      item.to = at;
      at += item.staged;
    }
    reads[item.source].push_back({{item.id, item.to, nullptr, {}}, &item});
  }
  for (auto& [source, list] : reads) {
    std::vector<ChunkRead> chunks;
    for (auto& [read, item] : list) {
      if (item->stored > 0) {
        read.stored = at;
        at += item->stored;
      }
      chunks.push_back(read);
    }
    source->read(chunks, owners);
    for (size_t i = 0; i < chunks.size(); ++i) list[i].second->status = chunks[i].status;
  }
  for (Item& item : batch.items) CONVOY_RETURN_IF_ERROR(finish(item, owners));
  return ok_status();
}

Status ChunkReader::finish(Item& item, std::shared_ptr<const void> owner) {
  if (item.raw != nullptr && !item.verified) {
    item.status =
        verify_chunk(*item.source, item.id, *plan_.stream_of(*item.work).record, item.raw);
  }
  if (!item.status.ok()) {
    // Memory that a late answer may still be written to is of no more use.
    if (item.status.code() == Code::kDeadlineExceeded) return failed(item, item.status);
    if (item.raw != nullptr) {  // in the source's memory
      const auto memory = std::make_shared<const Staging>(plan_.size_of(*item.work));
      item.to = memory->data();
      item.raw = nullptr;
      owner = memory;
    }
    CONVOY_RETURN_IF_ERROR(mended(item, owner));
  }
  if (!item.in_place) scatter_.put(*item.work, item.raw != nullptr ? item.raw : item.to);
  return ok_status();
}

Status ChunkReader::mended(Item& item, const std::shared_ptr<const void>& owner) {
  std::string from;
  const Status status = homes_.mend(item.work->id, item.to, owner, item.status, from);
  if (!status.ok()) return failed(item, item.status);
  const std::string text = item.status.message() + "; it was read from " + from;
  CONVOY_LOG(Warn) << homes_.source().name() << ": " << text;
  const std::lock_guard lock(mutex_);
  report_.mended.push_back(text);
  return ok_status();
}

Status ChunkReader::failed(const Item& item, const Status& status) const {
  std::set<std::string> names;
  const StreamPlan& stream = plan_.stream_of(*item.work);
  for (uint32_t u = 0; u < item.work->uses; ++u) {
    names.insert(plan_.tensor_names[stream.moves[plan_.uses[item.work->first_use + u]].tensor]);
  }
  std::string text = item.source == nullptr ? "" : item.source->name() + ": ";
  size_t count = 0;
  for (const std::string& name : names) {
    if (++count <= kMissingNamedMax) text += (count == 1 ? "tensor " : ", ") + name;
  }
  if (count > kMissingNamedMax) {
    text += " and " + std::to_string(count - kMissingNamedMax) + " more";
  }
  return {status.code(), text + ": " + status.message() +
                             ". What the load has written until now is undefined; load another "
                             "step, or give another source of this one."};
}

// Adds the batch to report and progress; false if the load is to stop.
bool ChunkReader::account(const Batch& batch, const Status& status) {
  LoadProgress now;
  {
    const std::lock_guard lock(mutex_);
    if (!status.ok()) {
      if (failure_.ok()) failure_ = status;
      return false;
    }
    for (const Item& item : batch.items) {
      progress_.chunks += 1;
      progress_.bytes += plan_.size_of(*item.work);
      if (item.verified) continue;
      report_.chunks += 1;
      report_.chunks_in_place += item.in_place ? 1 : 0;
      report_.bytes_read += plan_.chunk_of(*item.work).bytes;
    }
  }
  if (!options_.progress) return true;
  const std::lock_guard order(progress_mutex_);
  {
    const std::lock_guard lock(mutex_);
    now = progress_;
  }
  if (options_.progress(now)) return true;
  const std::lock_guard lock(mutex_);
  if (failure_.ok()) {
    failure_ = Status(Code::kAborted, "the load of " + homes_.source().name() +
                                          " was stopped; what it has written is undefined");
  }
  return false;
}

void ChunkReader::work(size_t thread) {
  Batch batch;
  while (take(batch)) {
    if (!account(batch, read(batch, thread))) return;
  }
}

Status ChunkReader::run(std::span<const ChunkJob> jobs, std::shared_ptr<const void> keeper) {
  jobs_ = jobs;
  next_ = 0;
  keeper_ = std::move(keeper);
  std::vector<std::thread> others;
  try {
    // A few chunks are not worth a thread each.
    const size_t useful = std::min(threads_, jobs.size());
    for (size_t t = 1; t < useful; ++t) others.emplace_back([this, t] { work(t); });
  } catch (const std::system_error&) {
    // Fewer threads do it too.
  }
  work(0);
  for (std::thread& t : others) t.join();
  return failure_;
}

LoadProgress ChunkReader::progress() {
  const std::lock_guard lock(mutex_);
  return progress_;
}

}  // namespace convoy::ckpt
