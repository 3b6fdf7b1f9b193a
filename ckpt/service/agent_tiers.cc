// Which job the agent serves, and the tiers that it opens for it.
#include "ckpt/service/agent_server.h"
#include <convoy/base/socket.h>

#include <future>
#include <unistd.h>

namespace convoy::ckpt {
namespace {

using namespace std::chrono_literals;

TierRules disk_rules(const Workers& w) {
  return {w.keep_newest, w.keep_every, w.bandwidth, w.incremental, w.take_over, w.compress};
}

TierRules remote_rules(const Workers& w) {
  return {w.remote_keep_newest, w.remote_keep_every, w.remote_bandwidth,
          w.incremental,        w.take_over,         w.remote_compress};
}

std::string job_text(const Workers& w) {
  return "job '" + w.job + "' generation " + std::to_string(w.generation);
}

}  // namespace

Result<std::shared_ptr<AgentJob>> Agent::job_for(const Workers& workers) {
  if (job_ != nullptr && job_->workers() == workers) return job_;
  if (job_ != nullptr && job_->workers().job == workers.job &&
      job_->workers().generation == workers.generation) {
    return Status(Code::kMismatch,
                  "the ranks of " + job_text(workers) +
                      " asked for different checkpoint settings. If they were started anew: "
                      "CONVOY_GENERATION must be higher than before");
  }
  if (job_ != nullptr &&
      (job_->workers().job != workers.job || job_->workers().generation > workers.generation)) {
    return Status(Code::kFailedPrecondition,
                  "this agent serves " + job_text(job_->workers()) + ", not " + job_text(workers) +
                      ". Ranks that are started anew need a higher CONVOY_GENERATION");
  }
  if (disk_ == nullptr || folder_ != workers.folder) {
    folder_ = workers.folder;
    disk_.reset();
    scrubber_.reset();
    if (!folder_.empty()) {
      DiskTierOptions disk;
      disk.folder = folder_;
      disk.claimant = {workers.job, workers.generation,
                       host_name() + ", agent " + std::to_string(::getpid())};
      // So that no two agents write the same: other nodes know the folder by it.
      if (workers.nodes > 1) disk.claimant.who += " " + random_hex().substr(0, 8);
      disk.rules = disk_rules(workers);
      disk_ = std::make_shared<DiskTier>(std::move(disk));
      if (workers.node == 0) start_scrubber(workers.remote);  // one folder
    }
  } else {
    disk_->set_rules(disk_rules(workers));
    if (workers.node == 0 && remote_place_ != workers.remote) {
      scrubber_.reset();
      start_scrubber(workers.remote);
    }
  }
  // The store takes what the folder has got, so one node is enough.
  const bool opens_remote = workers.node == 0;
  if (opens_remote && (remote_ == nullptr || remote_place_ != workers.remote)) {
    open_remote(workers);
  } else if (opens_remote) {
    remote_->set_rules(remote_rules(workers));
  }
  auto job = std::make_shared<AgentJob>(
      workers, disk_, opens_remote ? remote_ : nullptr,
      [this](std::function<void()> what) { post(std::move(what)); },
      [this] {
        tell_what_is_owed();
        retry_waiting();
      });
  if (workers.nodes > 1) {
    CONVOY_RETURN_IF_ERROR(ensure_cluster());
    CONVOY_RETURN_IF_ERROR(job->join(*cluster_));
  }
  // A generation that died before it had a whole step leaves that of its predecessor.
  if (job_ != nullptr && (job_->newest() || before_ == nullptr)) before_ = std::move(job_);
  job_ = std::move(job);
  return job_;
}

Status Agent::ensure_cluster() {
  if (cluster_ != nullptr) return ok_status();
  CONVOY_ASSIGN_OR_RETURN(cluster_, load_cluster(options_.listen));
  return ok_status();
}

void Agent::open_remote(const Workers& workers) {
  remote_place_ = workers.remote;
  if (remote_ != nullptr) remote_->abandon();
  remote_.reset();
  if (remote_place_.empty()) return;
  RemoteTierOptions remote;
  remote.where = remote_place_;
  remote.claimant = {workers.job, workers.generation,
                     host_name() + ", agent " + std::to_string(::getpid())};
  remote.rules = remote_rules(workers);
  remote_ = std::make_shared<RemoteTier>(std::move(remote));
}

void Agent::start_scrubber(const std::string& remote_uri) {
  if (options_.scrub_every == Nanos(0)) return;
  ScrubberOptions options;
  options.folder = folder_;
  options.every = options_.scrub_every;
  options.bandwidth = options_.scrub_bandwidth;
  options.remote = remote_uri;
  options.held = [this] { return held_copy(); };
  scrubber_ = std::make_unique<Scrubber>(std::move(options));
}

// From another thread; nothing if this one is ending.
std::optional<HeldCopy> Agent::held_copy() {
  constexpr auto kPatience = 1s;
  const auto found = std::make_shared<std::promise<std::optional<HeldCopy>>>();
  std::future<std::optional<HeldCopy>> answer = found->get_future();
  post([this, found] {
    std::optional<HeldCopy> held;
    for (const auto& job : {job_, before_}) {
      if (held || job == nullptr) continue;
      if (auto newest = job->newest()) held = {job->workers().generation, std::move(*newest)};
    }
    found->set_value(std::move(held));
  });
  if (answer.wait_for(kPatience) != std::future_status::ready) return std::nullopt;
  return answer.get();
}

}  // namespace convoy::ckpt
