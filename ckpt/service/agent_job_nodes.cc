// A node among several: what the coordinator decides is carried out here, event by event. Reports
// go back through the link. The slots are the coordinator's to give: it frees one when all nodes
// have said that they no longer need it, so a granted slot is free here.
#include "ckpt/service/agent_job.h"
#include <convoy/base/log.h>

#include <utility>

namespace convoy::ckpt {

Status AgentJob::join(Cluster& cluster) {
  NodeIdentity self;
  self.job = workers_.job;
  self.generation = workers_.generation;
  self.world_size = workers_.world_size;
  self.node = workers_.node;
  self.nodes = workers_.nodes;
  self.domain = workers_.domain;
  if (workers_.node == 0) {
    CoordinatorOptions options;
    options.self = self;
    options.mesh = workers_.mesh;
    options.disk_every = workers_.disk_every;
    options.step_timeout = workers_.step_timeout;
    options.peer_timeout = workers_.peer_timeout;
    options.replicate = workers_.replica_m > 0;
    if (disk_ != nullptr) options.disk = coordinator_disk(disk_, workers_.generation);
    cluster.coordinate(std::move(options));
  }
  CONVOY_ASSIGN_OR_RETURN(
      link_, cluster.join(self, workers_.coordinator,
                          {workers_.replica_k, workers_.replica_m, workers_.replica_bandwidth},
                          [this, later = later()](const StepEvent& event) {
                            later([this, event] { follow(event); });
                          }));
  return ok_status();
}

CoordinatorDisk AgentJob::coordinator_disk(const std::shared_ptr<DiskTier>& disk,
                                           uint64_t generation) {
  CoordinatorDisk out;
  out.claim = [disk, generation](auto done) {
    DiskJob job;
    job.work = DiskWork::kClaim;
    job.generation = generation;
    job.result = std::make_shared<DiskResult>();
    job.ended = [done, result = job.result](const Status& status) {
      if (!status.ok()) return done(status);
      done(CoordinatorDisk::Claimed{result->claim, result->who});
    };
    disk->submit(std::move(job));
  };
  out.commit = [disk, generation](Commit commit, std::vector<File> files, auto done) {
    DiskJob job;
    job.work = DiskWork::kCommit;
    job.step = commit.step;
    job.generation = generation;
    job.record = std::move(commit);
    job.files = std::move(files);
    job.ended = std::move(done);
    disk->submit(std::move(job));
  };
  return out;
}

void AgentJob::has_rank(uint32_t rank) {
  if (link_ != nullptr) link_->has_rank(rank);
}

bool AgentJob::busy() const {
  if (link_ == nullptr || disk_ == nullptr) return false;
  for (const auto& [step, here] : steps_) {
    if (here.staged && !here.progress.is_there(Tier::kLocalDurable) && here.failed.ok())
      return true;
  }
  return false;
}

void AgentJob::give_up(uint64_t step, const Status& why) {
  if (link_ == nullptr || table_.is_known(key(step))) return;
  link_->lost(step, why);
}

Result<AgentJob::Slot> AgentJob::acquire_together(uint32_t rank, uint64_t step, Overtake policy,
                                                  bool everywhere) {
  Slot slot;
  Step& here = steps_[step];
  here.everywhere |= everywhere;
  if (here.skipped) {
    slot.decision = {SnapshotTable::Verdict::kSkipped, -1, here.failed.message(), {}};
    return slot;
  }
  if (!here.failed.ok()) return here.failed;
  if (!cut_off_.ok()) return cut_off_;
  if (table_.is_known(key(step)) || here.staged) {
    if (here.staged) {
      slot.decision = {SnapshotTable::Verdict::kSkipped, -1, "this step is saved already", {}};
      return slot;
    }
    slot.decision = table_.acquire(key(step), policy);
    slot.offset = static_cast<uint64_t>(slot.decision.slot) * slot_bytes(rank);
    return slot;
  }
  if (!std::exchange(here.wanted, true)) link_->want(step, policy, here.everywhere);
  return slot;  // busy, until the coordinator has decided
}

void AgentJob::follow(const StepEvent& event) {
  using Kind = StepEvent::Kind;
  const SnapshotKey step = key(event.step);
  switch (event.kind) {
    case Kind::kGranted:
      granted(event);
      break;
    case Kind::kSkipped:
      steps_[event.step].skipped = steps_[event.step].over = true;
      stop(steps_[event.step], event.status);
      break;
    case Kind::kWhole:
      if (!table_.is_known(step)) break;  // from before this agent was here
      whole_together(event);
      break;
    case Kind::kWrite:
      if (table_.is_known(step)) write_part(event);
      break;
    case Kind::kCommitted:
      if (workers_.node == 0) {
        CONVOY_LOG(Info) << "checkpoint step " << event.step << " is durable in the folder";
      }
      committed_ = event.step;
      steps_[event.step].progress.reach(Tier::kLocalDurable);
      steps_[event.step].over = true;
      end_slot(event.step);
      if (steps_[event.step].to_remote) to_remote(event.step, /*from_folder=*/true);
      break;
    case Kind::kFailed:
      failed(event.step, event.status, event.dropped);
      break;
    case Kind::kReplicated:
      link_->settle(event.step);
      if (replicated_) table_.unpin(key(*replicated_));
      replicated_ = event.step;
      if (workers_.node == 0) {
        CONVOY_LOG(Info) << "checkpoint step " << event.step << " is in the memory of peers";
      }
      steps_[event.step].progress.reach(Tier::kReplicated);
      break;
    case Kind::kNotReplicated:
      if (workers_.node == 0) {
        CONVOY_LOG(Error) << "checkpoint step " << event.step
                          << " is not in the memory of peers: " << event.status.message();
      }
      link_->forget_image(event.step);
      table_.unpin(step, /*surplus=*/replicated_.has_value());
      steps_[event.step].progress.fail(Tier::kReplicated, event.status);
      break;
    case Kind::kLost:
      CONVOY_LOG(Error) << "checkpoints: " << event.status.message();
      cut_off_ = event.status;
      committed_.reset();  // what others have committed and removed since is not known
      for (auto& [number, here] : steps_) {
        const StepProgress& progress = here.progress;
        if (!here.over) failed(number, event.status, !progress.is_there(Tier::kStaged));
        if (progress.is_there(Tier::kStaged) && !progress.is_there(Tier::kReplicated) &&
            !progress.is_failed(Tier::kReplicated)) {
          link_->forget_image(number);
          if (workers_.replica_m > 0) table_.unpin(key(number), replicated_.has_value());
          here.progress.fail(Tier::kReplicated, event.status);
        }
      }
      break;
    case Kind::kBack:
      cut_off_ = {};
      break;
  }
  forget_old_steps();
  changed_();
}

void AgentJob::whole_together(const StepEvent& event) {
  Step& here = steps_[event.step];
  here.progress.reach(Tier::kStaged);
  table_.complete(key(event.step));
  if (workers_.replica_m > 0) replicate(event.step);
  const uint64_t number = whole_steps_++;
  if (!event.to_disk) {
    stop(here, {Code::kFailedPrecondition, "step " + std::to_string(event.step) +
                                               " stays in memory: not every save goes to disk"});
    here.parts.clear();
    here.over = true;
    return;
  }
  table_.queue(key(event.step));
  // Node 0 uploads what all have written to the folder.
  if (remote_ != nullptr && (here.everywhere || is_turn(number, workers_.remote_every))) {
    here.to_remote = true;
    disk_->pin(event.step);
  } else {
    here.progress.fail(Tier::kRemoteDurable,
                       {Code::kFailedPrecondition,
                        "step " + std::to_string(event.step) + " does not go to the store"});
  }
}

// Its slot is kept until all have the pieces, or nobody will.
void AgentJob::replicate(uint64_t step) {
  auto image = std::make_shared<NodeImage>();
  image->info.generation = workers_.generation;
  image->info.step = step;
  image->info.node = workers_.node;
  image->info.nodes = workers_.nodes;
  image->info.world_size = workers_.world_size;
  for (const auto& [rank, where] : steps_[step].ranks) {
    const std::span<const std::byte> slot = where.arena->bytes().subspan(where.offset);
    image->ranks.push_back({rank, slot.first(where.stream_bytes),
                            slot.subspan(where.part_offset, where.part_bytes), where.arena});
  }
  image->lay_out();
  table_.pin(key(step));
  link_->replicate(std::move(image));
}

void AgentJob::granted(const StepEvent& event) {
  if (table_.place(key(event.step), event.slot)) {
    steps_.try_emplace(event.step);
    return;
  }
  const Status status(Code::kInternal, "node " + std::to_string(workers_.node) + ": slot " +
                                           std::to_string(event.slot) + " is not free for step " +
                                           std::to_string(event.step));
  link_->lost(event.step, status);
}

void AgentJob::write_part(const StepEvent& event) {
  const uint64_t step = event.step;
  steps_[step].writing = true;
  table_.use(key(step));
  DiskJob job;
  job.work = DiskWork::kPart;
  job.node = workers_.node;
  job.joins = workers_.node != 0;
  job.claim = event.claim;
  job.who = event.who;
  job.base = committed_;
  job.result = std::make_shared<DiskResult>();
  job.ended = [this, step, result = job.result, later = later()](const Status& status) {
    later([this, step, status, result] { part_ended(step, status, result->part); });
  };
  to_disk(step, std::move(job));
}

void AgentJob::part_ended(uint64_t step, const Status& status, const PartSummary& part) {
  Step& here = steps_[step];
  here.writing = false;
  end_slot(step);
  link_->wrote(step, status.ok() ? Result<PartSummary>(part) : Result<PartSummary>(status),
               here.notes);
  changed_();
}

void AgentJob::failed(uint64_t step, const Status& why, bool dropped) {
  Step& here = steps_[step];
  if (here.staged || here.wanted) {
    CONVOY_LOG(Error) << "checkpoint step " << step << ": " << why.message();
  }
  stop(here, why);
  here.over = true;
  if (here.to_remote && !here.at_remote) {
    here.to_remote = false;
    disk_->unpin(step);
  }
  if (dropped) {
    here.ranks.clear();
    table_.drop(key(step));
  }
  if (!here.writing) here.parts.clear();
  end_slot(step);
}

// When nothing here reads the slot, and all know how the step has ended.
void AgentJob::end_slot(uint64_t step) {
  const Step& here = steps_[step];
  if (here.over && !here.writing) table_.done(key(step));
}

}  // namespace convoy::ckpt
