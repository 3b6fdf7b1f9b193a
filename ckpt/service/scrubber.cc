// When and what is scrubbed; how: restore/scrub.cc.
#include "ckpt/service/scrubber.h"

#include <convoy/base/checksum.h>
#include <convoy/base/log.h>

#include <algorithm>
#include <cstring>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <utility>

namespace convoy::ckpt {
namespace {

// Threads that are made later (the disk engine's) inherit both.
void take_lowest_priority() {
  constexpr int kLeast = 19, kIoOfThread = 1, kIoIdle = 3 << 13;
  ::setpriority(PRIO_PROCESS, static_cast<id_t>(::syscall(SYS_gettid)), kLeast);
  ::syscall(SYS_ioprio_set, kIoOfThread, 0, kIoIdle);
}

// Snapshots: a stream's chunks lie raw, one behind the other.
class MemoryMender final : public Mender {
 public:
  explicit MemoryMender(HeldCopy held) : held_(std::move(held)) {}
  std::string name() const override { return "the agent's memory"; }
  Result<std::vector<std::byte>> record(const std::string& path) override {
    return Status(Code::kNotFound, "memory has no " + path);
  }
  Status chunk(const Part& part, const Stream& stream, uint64_t i,
               std::span<std::byte> stored) override {
    const auto at = held_.step.ranks.find(stream.rank);
    const bool is_it = part.step == held_.step.step && part.generation == held_.generation &&
                       at != held_.step.ranks.end() && at->second.stream_bytes == stream.bytes &&
                       stream.chunks[i].codec == Codec::kRaw;
    if (!is_it) return {Code::kNotFound, "memory has another step"};
    const auto bytes = at->second.arena->bytes().subspan(at->second.offset + i * stream.chunk_bytes,
                                                         stream.chunk_size(i));
    std::ranges::copy(bytes, stored.begin());
    if (xxh3(stored) == stream.chunks[i].checksum) return ok_status();
    return {Code::kDataLoss, "memory has it no more"};
  }

 private:
  const HeldCopy held_;
};

}  // namespace

Scrubber::Scrubber(ScrubberOptions options)
    : options_(std::move(options)), thread_([this] { main(); }) {}

Scrubber::~Scrubber() {
  {
    const std::lock_guard lock(mutex_);
    ending_ = true;
    if (engine_ != nullptr) engine_->set_bandwidth(0);  // whoever waits for his share goes on
  }
  changed_.notify_all();
  thread_.join();
}

std::map<std::string, uint64_t> Scrubber::counters() const {
  const std::lock_guard lock(mutex_);
  return counters_;
}

void Scrubber::count(const std::string& name, uint64_t more) {
  const std::lock_guard lock(mutex_);
  counters_[name] += more;
}

void Scrubber::main() {
  take_lowest_priority();
  std::unique_lock lock(mutex_);
  for (;;) {
    if (changed_.wait_for(lock, options_.every, [this] { return ending_; })) return;
    lock.unlock();
    const Status status = pass();
    if (!status.ok() && status.code() != Code::kAborted) {
      CONVOY_LOG(Warn) << "the scrub of " << options_.folder << " failed: " << status.message();
    }
    lock.lock();
    counters_["passes"] += 1;
  }
}

Status Scrubber::pass() {
  if (engine_ == nullptr) {
    DiskOptions disk;
    disk.queue_depth = 2;
    disk.block_bytes = size_t{1} << 20;
    disk.bandwidth = options_.bandwidth;
    CONVOY_ASSIGN_OR_RETURN(auto engine, DiskEngine::create(disk));
    const std::lock_guard lock(mutex_);
    engine_ = std::move(engine);
  }
  CONVOY_ASSIGN_OR_RETURN(const auto store, open_local_store(options_.folder));
  Catalog catalog(*store);
  CONVOY_ASSIGN_OR_RETURN(const std::vector<StepInfo> steps, catalog.steps());
  std::set<uint64_t> older;
  for (const StepInfo& info : steps) {
    if (info.status.ok()) older.insert(info.key.step);
  }
  for (const StepInfo& info : steps) {
    if (!info.status.ok()) continue;
    older.erase(info.key.step);
    const Status status = scrub_step(*store, catalog, info, older);
    if (!status.ok() && status.code() != Code::kNotFound) return status;  // removed meanwhile: fine
  }
  return ok_status();
}

Status Scrubber::scrub_step(Store& store, Catalog& catalog, const StepInfo& info,
                            const std::set<uint64_t>& older) {
  CONVOY_ASSIGN_OR_RETURN(const Commit commit, catalog.load_commit(info.key));
  CONVOY_ASSIGN_OR_RETURN(const auto source,
                          FolderSource::create(options_.folder, commit, engine_));
  std::optional<MemoryMender> memory;
  ScrubOptions options;
  options.other_steps = older;
  if (auto held = options_.held(); held && held->step.step == info.key.step) {
    memory.emplace(std::move(*held));
    options.menders.push_back(&*memory);
  }
  std::unique_ptr<Store> far;
  StepMender remote(options_.remote, [&](uint64_t step) -> Result<std::unique_ptr<StepSource>> {
    CONVOY_ASSIGN_OR_RETURN(far, open_store(options_.remote));
    return open_step(*far, step);
  });
  if (!options_.remote.empty()) options.menders.push_back(&remote);
  options.progress = [this](const VerifyProgress&) {
    const std::lock_guard lock(mutex_);
    return !ending_;
  };
  CONVOY_ASSIGN_OR_RETURN(const ScrubReport report, scrub(*source, store, options));
  count("chunks", report.found.done.chunks);
  count("bytes", report.found.done.bytes);
  count("bad", report.found.bad.size() + report.found.bad_parts.size());
  count("healed", report.healed.size());
  count("left", report.left.size());
  for (const std::string& path : report.healed) {
    CONVOY_LOG(Warn) << "checkpoint file " << path << " in " << options_.folder
                     << " was damaged, and is whole again";
  }
  for (const Status& status : report.left) {
    CONVOY_LOG(Error) << "checkpoint step " << info.key.step << " in " << options_.folder
                      << " is damaged: " << status.message()
                      << ". `convoy ckpt scrub --from` mends it from a copy";
  }
  return ok_status();
}

}  // namespace convoy::ckpt
