// Steps of one generation: which rank's bytes lie where, and what is handed to the disk.
#include "ckpt/service/agent_job.h"

#include <convoy/base/log.h>
#include <convoy/ckpt/step_source.h>

#include <algorithm>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr size_t kStepsKept = 256;  // for ranks that ask late how a step has ended
constexpr uint64_t kSlotBytesMax = uint64_t{1} << 44;
constexpr uint64_t kPage = 4096;
constexpr unsigned kReadDepth = 4;  // of an upload from the folder: the disk is for others

Result<std::unique_ptr<StepSource>> open_local_step(const std::string& folder, uint64_t step) {
  CONVOY_ASSIGN_OR_RETURN(const auto store, open_local_store(folder));
  CONVOY_ASSIGN_OR_RETURN(Commit commit, Catalog(*store).load_commit(step));
  DiskOptions disk;
  disk.queue_depth = kReadDepth;
  CONVOY_ASSIGN_OR_RETURN(auto engine, DiskEngine::create(disk));
  CONVOY_ASSIGN_OR_RETURN(auto source,
                          FolderSource::create(folder, std::move(commit), std::move(engine)));
  return std::unique_ptr<StepSource>(std::move(source));
}

Result<std::unique_ptr<StepSource>> open_snapshots(const std::vector<RankSnapshot>& ranks,
                                                   uint64_t step, uint32_t world_size) {
  Commit head;
  head.step = step;
  head.world_size = world_size;
  std::vector<Snapshot> snapshots;
  for (const RankSnapshot& rank : ranks) {
    snapshots.push_back({rank.part, {rank.stream}, rank.arena});
  }
  CONVOY_ASSIGN_OR_RETURN(auto source, ArenaSource::create("memory of this node", std::move(head),
                                                           std::move(snapshots)));
  return std::unique_ptr<StepSource>(std::move(source));
}

std::string rank_text(uint32_t rank, uint64_t step) {
  return "rank " + std::to_string(rank) + ", step " + std::to_string(step) + ": ";
}

}  // namespace

AgentJob::AgentJob(Workers workers, std::shared_ptr<DiskTier> disk,
                   std::shared_ptr<RemoteTier> remote,
                   std::function<void(std::function<void()>)> post, std::function<void()> changed)
    : workers_(std::move(workers)),
      disk_(std::move(disk)),
      remote_(std::move(remote)),
      post_(std::move(post)),
      changed_(std::move(changed)),
      table_(kSlots, workers_.local_size, /*alone=*/workers_.nodes == 1) {}

// Steps that were to go on from the folder don't any more.
AgentJob::~AgentJob() {
  for (const auto& [step, state] : steps_) {
    if (disk_ != nullptr && state.to_remote && !state.at_remote) disk_->unpin(step);
  }
}

Result<std::shared_ptr<Arena>> AgentJob::reserve(uint32_t rank, uint64_t bytes) {
  if (bytes == 0 || bytes > kSlotBytesMax) {
    return Status(Code::kInvalidArgument,
                  "a snapshot of " + std::to_string(bytes) + " bytes can't be kept");
  }
  RankMemory& memory = memory_[rank];
  const uint64_t slot = (bytes + kPage - 1) / kPage * kPage;
  if (memory.arena != nullptr && memory.slot_bytes >= slot) return memory.arena;
  // The rank touches it, which must do so anyway: huge pages that are made twice cost both of them.
  CONVOY_ASSIGN_OR_RETURN(memory.arena, Arena::create(slot * kSlots, {.touch_threads = 0}));
  memory.slot_bytes = slot;
  return memory.arena;
}

uint64_t AgentJob::slot_bytes(uint32_t rank) const {
  const auto at = memory_.find(rank);
  return at == memory_.end() ? 0 : at->second.slot_bytes;
}

Result<AgentJob::Slot> AgentJob::acquire(uint32_t rank, uint64_t step, Overtake policy,
                                         bool everywhere) {
  if (slot_bytes(rank) == 0) {
    return Status(Code::kFailedPrecondition, rank_text(rank, step) + "no memory was reserved");
  }
  give_up(table_.pass_over(rank, key(step)),
          "rank " + std::to_string(rank) + " went on to step " + std::to_string(step) + " before");
  if (link_ != nullptr) return acquire_together(rank, step, policy, everywhere);
  Slot slot;
  slot.decision = table_.acquire(key(step), policy, [this](const SnapshotKey& waiting) {
    return (disk_ != nullptr && disk_->withdraw(waiting.step)) ||
           (remote_ != nullptr && remote_->withdraw(waiting.step));
  });
  if (slot.decision.verdict == SnapshotTable::Verdict::kGranted) {
    slot.offset = static_cast<uint64_t>(slot.decision.slot) * slot_bytes(rank);
    steps_[step].everywhere |= everywhere;
  }
  if (slot.decision.dropped) {
    const uint64_t dropped = slot.decision.dropped->step;
    steps_[dropped].progress.fail({Code::kAborted, "step " + std::to_string(dropped) +
                                                       " was replaced by the save of step " +
                                                       std::to_string(step)});
    if (disk_ != nullptr) disk_->unpin(dropped);
    steps_[dropped].to_remote = false;
    steps_[dropped].ranks.clear();
    changed_();
  }
  return slot;
}

// The rank may write on, so the part is read once, from a copy.
Result<Part> AgentJob::read_part(uint32_t rank, uint64_t step, const StagedSnapshot& where) const {
  const auto bytes =
      where.arena->bytes().subspan(where.offset + where.part_offset, where.part_bytes);
  const std::vector<std::byte> copy(bytes.begin(), bytes.end());
  CONVOY_ASSIGN_OR_RETURN(Part part, decode_part(copy, "snapshot of " + rank_text(rank, step)));
  const bool fits = part.step == step && part.generation == workers_.generation &&
                    part.streams.size() == 1 && part.streams[0].rank == rank &&
                    part.streams[0].bytes == where.stream_bytes &&
                    part.streams[0].chunk_bytes == kChunkBytes;
  if (fits) return part;
  return Status(Code::kInvalidArgument, rank_text(rank, step) + "the part is another snapshot's");
}

Status AgentJob::stage(uint32_t rank, uint64_t step, const StagedSnapshot& where,
                       std::map<std::string, std::string> notes) {
  const auto memory = memory_.find(rank);
  const auto found = steps_.find(step);
  if (memory == memory_.end() || found == steps_.end() || !table_.is_known(key(step))) {
    if (found != steps_.end() && !found->second.failed.ok()) return found->second.failed;
    return {Code::kAborted, rank_text(rank, step) + "its slot was taken back"};
  }
  StagedSnapshot mine = where;
  mine.arena = memory->second.arena;
  const SnapshotTable::Decision slot = table_.acquire(key(step), Overtake::kWait);
  if (slot.verdict != SnapshotTable::Verdict::kGranted) {
    return {Code::kAlreadyExists, rank_text(rank, step) + slot.why};
  }
  const uint64_t size = memory->second.slot_bytes;
  mine.offset = static_cast<uint64_t>(slot.slot) * size;
  if (mine.stream_bytes > mine.part_offset || mine.part_offset > size ||
      mine.part_bytes > size - mine.part_offset) {
    return {Code::kInvalidArgument, rank_text(rank, step) + "the snapshot is not in its slot"};
  }
  CONVOY_ASSIGN_OR_RETURN(Part part, read_part(rank, step, mine));
  Step& here = found->second;
  here.ranks[rank] = mine;
  here.parts[rank] = std::move(part);
  here.notes.merge(notes);
  if (!table_.stage(key(step), rank)) return ok_status();
  if (link_ == nullptr) {
    whole(step);
  } else {
    here.staged = true;
    link_->staged(step);
  }
  return ok_status();
}

void AgentJob::whole(uint64_t step) {
  const uint64_t number = whole_steps_++;
  Step& here = steps_[step];
  here.progress.reach(Tier::kStaged);
  plan(step, disk_ != nullptr && (here.everywhere || is_turn(number, workers_.disk_every)),
       remote_ != nullptr && (here.everywhere || is_turn(number, workers_.remote_every)));
  forget_old_steps();
  changed_();
}

// The remote tier goes on from the folder where the step comes there.
void AgentJob::plan(uint64_t step, bool disk, bool remote) {
  Step& here = steps_[step];
  const std::string stays =
      "step " + std::to_string(step) + " stays in memory: not every save goes ";
  here.to_disk = disk;
  here.to_remote = remote;
  if (disk) {
    here.progress.plan(Tier::kLocalDurable);
  } else {
    here.progress.fail(Tier::kLocalDurable,
                       {Code::kFailedPrecondition,
                        disk_ == nullptr ? "there is no checkpoint folder" : stays + "to disk"});
  }
  if (remote) {
    here.progress.plan(Tier::kRemoteDurable);
  } else {
    here.progress.fail(
        Tier::kRemoteDurable,
        {Code::kFailedPrecondition,
         remote_ == nullptr ? "there is no remote checkpoint folder" : stays + "to the store"});
  }
  if (disk) {
    if (remote) disk_->pin(step);
    to_disk(step);
  } else if (remote) {
    to_remote(step, false);
  } else {
    here.parts.clear();
  }
}

std::vector<RankSnapshot> AgentJob::snapshots(const Step& step) const {
  std::vector<RankSnapshot> out;
  for (const auto& [rank, part] : step.parts) {
    const StagedSnapshot& where = step.ranks.at(rank);
    out.push_back(
        {where.arena->bytes().subspan(where.offset, where.stream_bytes), part, where.arena});
  }
  return out;
}

// Posts to the agent's thread what only makes sense while this lives.
std::function<void(std::function<void()>)> AgentJob::later() const {
  return [alive = std::weak_ptr<bool>(alive_), post = post_](std::function<void()> what) {
    post([alive, what = std::move(what)] {
      if (!alive.expired()) what();
    });
  };
}

void AgentJob::to_disk(uint64_t step, DiskJob job) {
  Step& here = steps_[step];
  here.to_disk = true;
  job.step = step;
  job.generation = workers_.generation;
  job.world_size = workers_.world_size;
  job.mesh = workers_.mesh;
  job.notes = here.notes;
  job.ranks = snapshots(here);
  if (link_ != nullptr || !here.to_remote) here.parts.clear();
  if (job.work == DiskWork::kStep) {
    job.begins = [this, step, later = later()] { later([this, step] { table_.use(key(step)); }); };
    job.ended = [this, step, later = later()](const Status& status) {
      if (status.ok()) {
        CONVOY_LOG(Info) << "checkpoint step " << step << " is durable in the folder";
      } else {
        CONVOY_LOG(Error) << "checkpoint step " << step
                          << " is not on the disk: " << status.message();
      }
      later([this, step, status] { on_disk(step, status); });
    };
    table_.queue(key(step));
  }
  disk_->submit(std::move(job));
}

void AgentJob::on_disk(uint64_t step, const Status& status) {
  Step& here = steps_[step];
  status.ok() ? here.progress.reach(Tier::kLocalDurable)
              : here.progress.fail(Tier::kLocalDurable, status);
  const bool from_folder = status.ok();
  if (!status.ok() && disk_ != nullptr) disk_->unpin(step);
  // What the disk does not take still goes to the store, from memory, which it keeps meanwhile.
  if (from_folder || !here.to_remote) table_.done(key(step));
  if (here.to_remote) to_remote(step, from_folder);
  changed_();
}

void AgentJob::to_remote(uint64_t step, bool from_folder) {
  Step& here = steps_[step];
  RemoteJob job;
  job.step = step;
  job.generation = workers_.generation;
  job.world_size = workers_.world_size;
  job.mesh = workers_.mesh;
  job.notes = here.notes;
  if (from_folder) {
    job.open = [folder = workers_.folder, step] { return open_local_step(folder, step); };
  } else {
    job.open = [ranks = std::make_shared<std::vector<RankSnapshot>>(snapshots(here)), step,
                world_size = workers_.world_size] {
      return open_snapshots(*ranks, step, world_size);
    };
    job.begins = [this, step, later = later()] { later([this, step] { table_.use(key(step)); }); };
    table_.queue(key(step));
  }
  here.parts.clear();
  here.at_remote = true;
  job.ended = [this, step, from_folder, later = later(), disk = disk_](const Status& status) {
    if (status.ok()) {
      CONVOY_LOG(Info) << "checkpoint step " << step << " is durable in the object store";
    } else {
      CONVOY_LOG(Error) << "checkpoint step " << step
                        << " is not in the object store: " << status.message();
    }
    if (disk != nullptr) disk->unpin(step);
    later([this, step, from_folder, status] { on_remote(step, from_folder, status); });
  };
  remote_->submit(std::move(job));
}

void AgentJob::on_remote(uint64_t step, bool from_folder, const Status& status) {
  status.ok() ? steps_[step].progress.reach(Tier::kRemoteDurable)
              : steps_[step].progress.fail(Tier::kRemoteDurable, status);
  if (!from_folder) table_.done(key(step));
  changed_();
}

bool AgentJob::between_tiers() const {
  return std::ranges::any_of(steps_, [](const auto& entry) {
    const Step& step = entry.second;
    return step.to_remote && !step.at_remote && step.progress.is_there(Tier::kStaged);
  });
}

Result<bool> AgentJob::reached(uint32_t rank, uint64_t step, Tier tier) {
  give_up(table_.pass_over(rank, key(step + 1)),
          "rank " + std::to_string(rank) + " asked how far it is before");
  const auto at = steps_.find(step);
  if (at == steps_.end()) {
    return Status(Code::kNotFound, "step " + std::to_string(step) + " was not saved here");
  }
  if (tier == Tier::kReplicated && (workers_.replica_m == 0 || workers_.nodes == 1)) {
    return Status(Code::kFailedPrecondition,
                  "peer memory is off: ClientOptions::replica_m, of a job on several nodes");
  }
  if (tier == Tier::kRemoteDurable && workers_.node != 0) {
    return Status(Code::kFailedPrecondition,
                  "the ranks of node 0 know how far a step is on its way to the store");
  }
  return at->second.progress.reached(tier);
}

std::optional<uint64_t> AgentJob::owed() const {
  if (disk_ == nullptr && remote_ == nullptr) return std::nullopt;
  const Tier tier = disk_ != nullptr ? Tier::kLocalDurable : Tier::kRemoteDurable;
  for (auto at = steps_.rbegin(); at != steps_.rend(); ++at) {
    const StepProgress& progress = at->second.progress;
    const bool ended = progress.is_there(tier) || progress.is_failed(tier);
    if (!at->second.ranks.empty() && !ended) return at->first;
  }
  return std::nullopt;
}

std::optional<uint64_t> AgentJob::newest_in(Tier tier) const {
  for (auto at = steps_.rbegin(); at != steps_.rend(); ++at) {
    if (at->second.progress.is_there(tier)) return at->first;
  }
  return std::nullopt;
}

void AgentJob::lose(uint32_t rank) {
  give_up(table_.lose(rank), "rank " + std::to_string(rank) + " ended before");
}

// It comes no further; what is under way to the memory of peers goes on once it is whole.
void AgentJob::stop(Step& step, const Status& why) {
  step.failed = why;
  if (!step.progress.is_there(Tier::kStaged)) return step.progress.fail(why);
  step.progress.fail(Tier::kLocalDurable, why);
  step.progress.fail(Tier::kRemoteDurable, why);
}

void AgentJob::give_up(const std::vector<SnapshotKey>& keys, const std::string& why) {
  for (const SnapshotKey& lost : keys) {
    Step& here = steps_[lost.step];
    stop(here, {Code::kAborted, why + " it had saved step " + std::to_string(lost.step)});
    here.ranks.clear();
    here.parts.clear();
    if (link_ != nullptr) link_->lost(lost.step, here.failed);
  }
  if (!keys.empty()) changed_();
}

bool AgentJob::flush() {
  const auto held = table_.newest();
  if (!held) return false;
  const uint64_t step = held->key.step;
  Step& here = steps_[step];
  const bool disk = disk_ != nullptr && !here.to_disk;
  const bool remote = remote_ != nullptr && !here.to_remote;
  if (link_ != nullptr || (!disk && (!remote || here.to_disk))) return true;
  for (const auto& [rank, where] : here.ranks) {
    Result<Part> part = read_part(rank, step, where);
    if (!part.ok()) {
      CONVOY_LOG(Error) << "checkpoint step " << step
                        << " stays off the disk: " << part.status().message();
      here.parts.clear();
      return true;
    }
    here.parts[rank] = std::move(part).value();
  }
  plan(step, disk, remote);
  return true;
}

std::optional<AgentJob::Found> AgentJob::newest() const {
  const auto held = table_.newest();
  if (!held) return std::nullopt;
  const auto at = steps_.find(held->key.step);
  if (at == steps_.end()) return std::nullopt;
  return Found{held->key.step, workers_.world_size, at->second.ranks};
}

void AgentJob::forget_old_steps() {
  for (auto at = steps_.begin(); at != steps_.end() && steps_.size() > kStepsKept;) {
    at = table_.is_known(key(at->first)) ? std::next(at) : steps_.erase(at);
  }
}

}  // namespace convoy::ckpt
