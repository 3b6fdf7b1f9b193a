// Steps of one generation: which rank's bytes lie where, and what is handed to the disk.
#include "ckpt/service/agent_job.h"

#include <convoy/base/log.h>

#include <algorithm>
#include <utility>

namespace convoy::ckpt {
namespace {

constexpr size_t kStepsKept = 256;  // for ranks that ask late how a step has ended
constexpr uint64_t kSlotBytesMax = uint64_t{1} << 44;
constexpr uint64_t kPage = 4096;

std::string rank_text(uint32_t rank, uint64_t step) {
  return "rank " + std::to_string(rank) + ", step " + std::to_string(step) + ": ";
}

}  // namespace

AgentJob::AgentJob(Workers workers, std::shared_ptr<DiskTier> disk,
                   std::function<void(std::function<void()>)> post, std::function<void()> changed)
    : workers_(std::move(workers)),
      disk_(std::move(disk)),
      post_(std::move(post)),
      changed_(std::move(changed)),
      table_(kSlots, workers_.local_size, /*alone=*/workers_.nodes == 1) {}

Result<std::shared_ptr<Arena>> AgentJob::reserve(uint32_t rank, uint64_t bytes) {
  if (bytes == 0 || bytes > kSlotBytesMax) {
    return Status(Code::kInvalidArgument,
                  "a snapshot of " + std::to_string(bytes) + " bytes can't be kept");
  }
  RankMemory& memory = memory_[rank];
  const uint64_t slot = (bytes + kPage - 1) / kPage * kPage;
  if (memory.arena != nullptr && memory.slot_bytes >= slot) return memory.arena;
  CONVOY_ASSIGN_OR_RETURN(memory.arena, Arena::create(slot * kSlots));
  memory.slot_bytes = slot;
  return memory.arena;
}

uint64_t AgentJob::slot_bytes(uint32_t rank) const {
  const auto at = memory_.find(rank);
  return at == memory_.end() ? 0 : at->second.slot_bytes;
}

Result<AgentJob::Slot> AgentJob::acquire(uint32_t rank, uint64_t step, Overtake policy) {
  if (slot_bytes(rank) == 0) {
    return Status(Code::kFailedPrecondition, rank_text(rank, step) + "no memory was reserved");
  }
  give_up(table_.pass_over(rank, key(step)),
          "rank " + std::to_string(rank) + " went on to step " + std::to_string(step) + " before");
  if (link_ != nullptr) return acquire_together(rank, step, policy);
  Slot slot;
  slot.decision = table_.acquire(key(step), policy, [this](const SnapshotKey& waiting) {
    return disk_ == nullptr || disk_->withdraw(waiting.step);
  });
  if (slot.decision.verdict == SnapshotTable::Verdict::kGranted) {
    slot.offset = static_cast<uint64_t>(slot.decision.slot) * slot_bytes(rank);
    steps_.try_emplace(step);
  }
  if (slot.decision.dropped) {
    const uint64_t dropped = slot.decision.dropped->step;
    steps_[dropped].failed = {Code::kAborted, "step " + std::to_string(dropped) +
                                                  " was replaced by the save of step " +
                                                  std::to_string(step)};
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
  steps_[step].whole = true;
  ++whole_steps_;
  if (disk_ != nullptr && (whole_steps_ - 1) % std::max<uint64_t>(1, workers_.disk_every) == 0) {
    to_disk(step);
  } else {
    steps_[step].failed = {
        Code::kFailedPrecondition,
        "step " + std::to_string(step) + " stays in memory: not every save goes to disk"};
    steps_[step].parts.clear();
  }
  forget_old_steps();
  changed_();
}

// Answers of the disk come on its thread, and may come when this has gone.
std::function<void(std::function<void()>)> AgentJob::later() {
  const std::weak_ptr<bool> alive = alive_;
  return [alive, post = post_](std::function<void()> what) {
    post([alive, what = std::move(what)] {
      if (!alive.expired()) what();
    });
  };
}

void AgentJob::to_disk(uint64_t step, DiskJob job) {
  Step& here = steps_[step];
  here.sent = true;
  job.step = step;
  job.generation = workers_.generation;
  job.world_size = workers_.world_size;
  job.mesh = workers_.mesh;
  job.notes = here.notes;
  for (auto& [rank, part] : here.parts) {
    const StagedSnapshot& where = here.ranks[rank];
    job.ranks.push_back({where.arena->bytes().subspan(where.offset, where.stream_bytes),
                         std::move(part), where.arena});
  }
  here.parts.clear();
  if (job.work == DiskWork::kStep) {
    job.begins = [this, step, later = later()] { later([this, step] { table_.use(key(step)); }); };
    job.ended = [this, step, later = later()](const Status& status) {
      later([this, step, status] { disk_ended(step, status); });
    };
    table_.queue(key(step));
  }
  disk_->submit(std::move(job));
}

void AgentJob::disk_ended(uint64_t step, const Status& status) {
  if (status.ok()) {
    CONVOY_LOG(Info) << "checkpoint step " << step << " is durable in the folder";
  } else {
    CONVOY_LOG(Error) << "checkpoint step " << step << " is not on the disk: " << status.message();
  }
  steps_[step].on_disk = status.ok();
  if (!status.ok()) steps_[step].failed = status;
  table_.done(key(step));
  changed_();
}

Result<bool> AgentJob::reached(uint32_t rank, uint64_t step, Tier tier) {
  give_up(table_.pass_over(rank, key(step + 1)),
          "rank " + std::to_string(rank) + " asked how far it is before");
  const auto at = steps_.find(step);
  if (at == steps_.end()) {
    return Status(Code::kNotFound, "step " + std::to_string(step) + " was not saved here");
  }
  const Step& here = at->second;
  if (tier == Tier::kReplicated) {
    if (here.replicated) return true;
    if (workers_.replica_m == 0) {
      return Status(Code::kFailedPrecondition,
                    "peer memory is off: ClientOptions::replica_m, of a job on several nodes");
    }
    if (!here.not_replicated.ok()) return here.not_replicated;
    if (!here.whole && !here.failed.ok()) return here.failed;
    return false;
  }
  if (tier == Tier::kStaged ? here.whole : here.on_disk) return true;
  if (tier == Tier::kLocalDurable && disk_ == nullptr) {
    return Status(Code::kFailedPrecondition, "there is no checkpoint folder");
  }
  if (!here.failed.ok() && (tier != Tier::kStaged || !here.whole)) return here.failed;
  return false;
}

void AgentJob::lose(uint32_t rank) {
  give_up(table_.lose(rank), "rank " + std::to_string(rank) + " ended before");
}

void AgentJob::give_up(const std::vector<SnapshotKey>& keys, const std::string& why) {
  for (const SnapshotKey& lost : keys) {
    steps_[lost.step].failed = {Code::kAborted,
                                why + " it had saved step " + std::to_string(lost.step)};
    steps_[lost.step].ranks.clear();
    steps_[lost.step].parts.clear();
    if (link_ != nullptr) link_->lost(lost.step, steps_[lost.step].failed);
  }
  if (!keys.empty()) changed_();
}

bool AgentJob::flush() {
  const auto held = table_.newest();
  if (!held) return false;
  const uint64_t step = held->key.step;
  Step& here = steps_[step];
  if (disk_ == nullptr || link_ != nullptr || here.sent || here.on_disk) return true;
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
  here.failed = {};
  to_disk(step);
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
