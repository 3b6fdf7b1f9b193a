// When a run saves and what it resumes from. Beside the trainer's state a checkpoint holds
// "data.position": which samples come next, and their seed.
#include "src/runtime/checkpoints.h"

#include <convoy/base/clock.h>
#include <convoy/base/log.h>
#include <convoy/base/socket.h>
#include <convoy/ckpt/agent_process.h>
#include <convoy/ckpt/catalog.h>
#include <convoy/ckpt/find_nodes.h>

#include <ATen/ops/zeros.h>

#include <filesystem>
#include <sstream>
#include <unistd.h>
#include <utility>

namespace convoy::runtime {
namespace {

// From the end of training to the last step's being in the folder.
constexpr Nanos kFinishTimeout = std::chrono::minutes(30);

double seconds_since(TimePoint begin) {
  return std::chrono::duration<double>(Clock::system().now() - begin).count();
}

std::string job_name(const launch::Environment& environment) {
  return environment.job_id.empty() ? "convoy" : environment.job_id;
}

// Makes the folder, and finds out whether this job may write there: before training, not at its
// first save.
Status check_folder(const TrainOptions& options, const launch::Environment& environment) {
  std::error_code error;
  std::filesystem::create_directories(options.checkpoint, error);
  if (error) {
    return {Code::kInvalidArgument,
            "the checkpoint folder " + options.checkpoint + " can't be made: " + error.message()};
  }
  CONVOY_ASSIGN_OR_RETURN(const auto store, ckpt::open_local_store(options.checkpoint));
  const Status status = ckpt::Catalog(*store).may_claim(
      {job_name(environment), static_cast<uint64_t>(environment.generation), host_name()},
      options.take_over);
  if (status.code() != Code::kFailedPrecondition) return status;
  return {status.code(), status.message() + " (--take-over)"};
}

ckpt::ClientOptions client_options(const TrainOptions& options, Runtime& runtime,
                                   std::string agent) {
  const launch::Environment& environment = runtime.environment();
  ckpt::ClientOptions client;
  client.agent = std::move(agent);
  client.job = job_name(environment);
  client.generation = static_cast<uint64_t>(environment.generation);
  client.rank = static_cast<uint32_t>(environment.rank);
  client.world_size = static_cast<uint32_t>(environment.world_size);
  client.local_size = static_cast<uint32_t>(environment.local_world_size);
  client.mesh = runtime.mesh().to_string();
  client.folder = std::filesystem::absolute(options.checkpoint).string();
  client.keep_newest = static_cast<uint64_t>(options.checkpoint_keep);
  client.bandwidth = options.checkpoint_bandwidth;
  client.take_over = options.take_over;
  client.threads = threads_per_rank(environment);
  return client;
}

std::string place_text(const ckpt::NearestStep& from, const ckpt::LoadPlaces& places) {
  if (from.tier == ckpt::Tier::kReplicated) return "the memory of all machines";
  return from.tier == ckpt::Tier::kStaged ? "the memory of this machine" : places.folder;
}

}  // namespace

Result<Checkpoints> Checkpoints::open(const TrainOptions& options, Runtime& runtime) {
  Checkpoints out;
  if (options.checkpoint.empty()) return out;
  out.rank_ = runtime.rank();
  out.every_ = options.checkpoint_every;
  out.position_ = at::zeros({4}, at::kLong);
  out.exchange_ = std::make_unique<ckpt::GroupExchange>(runtime.groups().world());
  const launch::Environment& environment = runtime.environment();
  CONVOY_RETURN_IF_ERROR(ckpt::agree(
      *out.exchange_, out.rank_ == 0 ? check_folder(options, environment) : ok_status()));
  Result<std::string> agent = ckpt::ensure_agent({.agent = environment.agent,
                                                  .job = launch::local_job(environment),
                                                  .program = environment.program});
  CONVOY_RETURN_IF_ERROR(ckpt::agree(*out.exchange_, agent.status()));
  out.places_ = {*agent, std::filesystem::absolute(options.checkpoint).string()};
  ckpt::ClientOptions client = client_options(options, runtime, *agent);
  if (client.local_size < client.world_size) {
    CONVOY_RETURN_IF_ERROR(ckpt::find_nodes(*out.exchange_, client));
    out.places_.coordinator = client.coordinator;
    out.places_.generation = client.generation;
  }
  auto checkpointer = ckpt::Checkpointer::create({std::move(client), options.checkpoint_spread});
  CONVOY_RETURN_IF_ERROR(ckpt::agree(*out.exchange_, checkpointer.status()));
  out.checkpointer_ = std::move(checkpointer).value();
  return out;
}

ckpt::TensorState Checkpoints::add_position(ckpt::TensorState state) const {
  state.push_back({"data.position", {4}, {{{0}, position_}}});
  return state;
}

Result<int64_t> Checkpoints::resume(Trainer& trainer, Samples& samples) {
  if (checkpointer_ == nullptr) return 0;
  const TimePoint begin = Clock::system().now();
  CONVOY_ASSIGN_OR_RETURN(
      const std::optional<ckpt::NearestStep> from,
      ckpt::load_nearest(places_, add_position(trainer.state_to_load()), *exchange_));
  if (from) {
    trainer.restored();
    const auto* n = position_.const_data_ptr<int64_t>();
    CONVOY_RETURN_IF_ERROR(
        samples.go_to({static_cast<uint64_t>(n[0]), static_cast<uint64_t>(n[1]),
                       static_cast<uint64_t>(n[2]), static_cast<uint64_t>(n[3])}));
    last_ = static_cast<int64_t>(from->step);
    std::ostringstream text;
    text.precision(3);
    text << "resumed from step " << from->step << " in " << place_text(*from, places_)
         << ", saved by " << from->world_size << " rank" << (from->world_size == 1 ? "" : "s");
    if (!from->mesh.empty()) text << " (" << from->mesh << ")";
    text << ", in " << seconds_since(begin) << " s";
    if (!from->report.passed_over.empty()) {
      text << "; " << from->report.passed_over.size() << " newer damaged one(s) passed over";
    }
    story_ = text.str();
  }
  // After the load: the agent lets go of older snapshots for new ones.
  const Status prepared = checkpointer_->prepare(add_position(trainer.state_to_save()));
  if (!prepared.ok()) {
    CONVOY_LOG(Warn) << "no memory is reserved for checkpoints yet: " << prepared.message();
  }
  return last_;
}

void Checkpoints::report(int64_t step, const Result<ckpt::SaveOutcome>& outcome) const {
  if (!outcome.ok()) {
    CONVOY_LOG(Error) << "checkpoint step " << step
                      << " was not saved: " << outcome.status().message();
  } else if (outcome->skipped) {
    CONVOY_LOG(Warn) << "checkpoint step " << step << " was left out: " << outcome->why;
  }
}

double Checkpoints::after_step(int64_t step, bool is_last, Trainer& trainer,
                               const Samples& samples) {
  if (checkpointer_ == nullptr || (step % every_ != 0 && !is_last)) return 0;
  const TimePoint begin = Clock::system().now();
  if (std::exchange(copying_, false)) report(last_, checkpointer_->outcome());
  const dataset::SamplerState& now = samples.position();
  auto* n = position_.mutable_data_ptr<int64_t>();
  n[0] = static_cast<int64_t>(now.samples);
  n[1] = static_cast<int64_t>(now.seed);
  n[2] = static_cast<int64_t>(now.epoch);
  n[3] = static_cast<int64_t>(now.offset);
  ckpt::TensorState state = trainer.state_to_save();
  if (rank_ == 0) state = add_position(std::move(state));
  const auto outcome = checkpointer_->save_async(static_cast<uint64_t>(step), std::move(state));
  last_ = step;
  copying_ = true;
  (void)outcome;  // known at the next one, or at the end
  return seconds_since(begin);
}

double Checkpoints::before_update() {
  if (!copying_) return 0;
  const TimePoint begin = Clock::system().now();
  checkpointer_->fence();
  return seconds_since(begin);
}

Status Checkpoints::finish() {
  if (checkpointer_ == nullptr || last_ == 0) return ok_status();
  if (!std::exchange(copying_, false)) return ok_status();
  const auto outcome = checkpointer_->outcome();
  report(last_, outcome);
  CONVOY_RETURN_IF_ERROR(outcome.status());
  return checkpointer_
      ->wait(static_cast<uint64_t>(last_), ckpt::Tier::kLocalDurable, kFinishTimeout)
      .with_context("the last checkpoint, step " + std::to_string(last_) + ", is not in " +
                    places_.folder);
}

}  // namespace convoy::runtime
