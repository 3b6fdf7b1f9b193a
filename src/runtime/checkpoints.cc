// When a run saves and what it resumes from. Beside the trainer's state a checkpoint holds
// "data.position": which samples come next, and their seed.
#include "src/runtime/checkpoints.h"

#include <convoy/base/clock.h>
#include <convoy/base/log.h>
#include <convoy/base/socket.h>
#include <convoy/base/units.h>
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

std::string job_name(const launch::Environment& environment) {
  return environment.job_id.empty() ? "convoy" : environment.job_id;
}

// Where several machines save they have to agree anew in each generation; on one the launcher's
// counts.
uint64_t generation_of(const Runtime& runtime) {
  return static_cast<uint64_t>(runtime.spans_machines() ? runtime.generation()
                                                        : runtime.environment().generation);
}

Status may_claim(ckpt::Store& store, const TrainOptions& options, const Runtime& runtime) {
  const Status status = ckpt::Catalog(store).may_claim(
      {job_name(runtime.environment()), generation_of(runtime), host_name()},
      options.checkpoint.take_over);
  if (status.code() != Code::kFailedPrecondition) return status;
  return {status.code(), status.message() + " (--take-over)"};
}

Status check_folder(const TrainOptions& options, const Runtime& runtime) {
  const std::string& folder = options.checkpoint.folder.where;
  if (folder.empty()) return ok_status();
  std::error_code error;
  std::filesystem::create_directories(folder, error);
  if (error) {
    return {Code::kInvalidArgument,
            "the checkpoint folder " + folder + " can't be made: " + error.message()};
  }
  CONVOY_ASSIGN_OR_RETURN(const auto store, ckpt::open_local_store(folder));
  return may_claim(*store, options, runtime);
}

// A store that can't be reached now may be later; the folder serves until then.
Status check_remote(const TrainOptions& options, const Runtime& runtime) {
  const std::string& where = options.checkpoint.remote.where;
  if (where.empty()) return ok_status();
  const auto store = ckpt::open_store(where);
  const Status status = store.ok() ? may_claim(**store, options, runtime) : store.status();
  const bool may_pass =
      status.code() == Code::kUnavailable || status.code() == Code::kDeadlineExceeded;
  if (!may_pass || options.checkpoint.folder.where.empty()) {
    return status.with_context("--checkpoint-remote");
  }
  CONVOY_LOG(Warn) << "nothing is saved to the store until it can be reached: " << status.message();
  return ok_status();
}

// Makes the folder, and finds out whether this job may write there and to the store: before
// training, not at its first save.
Status check_places(const TrainOptions& options, const Runtime& runtime) {
  CONVOY_RETURN_IF_ERROR(check_folder(options, runtime));
  return check_remote(options, runtime);
}

std::string folder_of(const TrainOptions& options) {
  const std::string& folder = options.checkpoint.folder.where;
  return folder.empty() ? "" : std::filesystem::absolute(folder).string();
}

ckpt::ClientOptions client_options(const TrainOptions& options, Runtime& runtime,
                                   std::string agent) {
  const launch::Environment& environment = runtime.environment();
  ckpt::ClientOptions client;
  client.agent = std::move(agent);
  client.job = job_name(environment);
  client.generation = generation_of(runtime);
  client.rank = static_cast<uint32_t>(environment.rank);
  client.world_size = static_cast<uint32_t>(environment.world_size);
  client.local_size = static_cast<uint32_t>(environment.local_world_size);
  client.mesh = runtime.mesh().to_string();
  const CheckpointOptions& o = options.checkpoint;
  client.folder = folder_of(options);
  client.disk_every = static_cast<uint64_t>(o.disk_every);
  client.keep_newest = static_cast<uint64_t>(o.folder.keep);
  client.keep_every = static_cast<uint64_t>(o.folder.keep_every);
  client.bandwidth = o.folder.bandwidth;
  client.compress = o.folder.compress;
  client.remote = o.remote.where;
  client.remote_every = static_cast<uint64_t>(o.remote_every);
  client.remote_keep_newest = static_cast<uint64_t>(o.remote.keep);
  client.remote_keep_every = static_cast<uint64_t>(o.remote.keep_every);
  client.remote_bandwidth = o.remote.bandwidth;
  client.remote_compress = o.remote.compress;
  client.replica_k = static_cast<uint32_t>(o.replica_k);
  client.replica_m = static_cast<uint32_t>(o.replica_m);
  client.replica_bandwidth = o.replica_bandwidth;
  client.domain = o.domain;
  client.incremental = o.incremental;
  client.take_over = o.take_over;
  client.overtake = ckpt::Overtake::kWaitBriefly;
  client.threads = threads_per_rank(environment);
  return client;
}

// Each piece of a snapshot needs a machine of its own. A job that was started with too few is
// wrong; one that has lost some goes on with its other tiers until they are there again.
Status fit_replicas(const Runtime& runtime, ckpt::ClientOptions& client) {
  const uint32_t pieces = client.replica_k + client.replica_m;
  if (client.replica_m == 0 || pieces <= client.nodes) return ok_status();
  const std::string needs = "--checkpoint-replicas " + std::to_string(client.replica_k) + "," +
                            std::to_string(client.replica_m) + " needs " + std::to_string(pieces) +
                            " machines, one for each piece; this job has " +
                            std::to_string(client.nodes);
  if (runtime.generation() == runtime.environment().generation) {
    return {Code::kInvalidArgument, needs + "."};
  }
  if (runtime.rank() == 0) {
    CONVOY_LOG(Warn) << needs << " now. Until there are more it is off";
  }
  client.replica_k = client.replica_m = 0;
  return ok_status();
}

// What depends on how many machines there are.
Status check_nodes(const CheckpointOptions& o, uint32_t nodes) {
  if (nodes > 1 && !o.remote.where.empty() && o.folder.where.empty()) {
    return {Code::kInvalidArgument,
            "--checkpoint-remote needs --checkpoint FOLDER, too, where a job has several machines: "
            "the store takes what all of them have written there."};
  }
  return ok_status();
}

std::string place_text(const ckpt::NearestStep& from, const ckpt::LoadPlaces& places) {
  switch (from.tier) {
    case ckpt::Tier::kStaged:
      return "the memory of this machine";
    case ckpt::Tier::kReplicated:
      return "the memory of all machines";
    case ckpt::Tier::kLocalDurable:
      return places.folder;
    case ckpt::Tier::kRemoteDurable:
      return places.remote;
  }
  return "";
}

}  // namespace

Result<Checkpoints> Checkpoints::open(const TrainOptions& options, Runtime& runtime, bool alone) {
  Checkpoints out;
  if (!options.checkpoint.any()) return out;
  out.rank_ = runtime.rank();
  out.every_ = options.checkpoint.every;
  out.position_ = at::zeros({4}, at::kLong);
  out.exchange_ = std::make_unique<ckpt::GroupExchange>(runtime.groups().world());
  const launch::Environment& environment = runtime.environment();
  const auto agree = [&](const Status& mine) {
    return alone ? mine : ckpt::agree(*out.exchange_, mine);
  };
  CONVOY_RETURN_IF_ERROR(
      agree(out.rank_ == 0 && !alone ? check_places(options, runtime) : ok_status()));
  Result<std::string> agent = ckpt::ensure_agent({.agent = environment.agent,
                                                  .job = launch::local_job(environment),
                                                  .program = environment.program});
  CONVOY_RETURN_IF_ERROR(agree(agent.status()));
  out.places_ = {*agent, folder_of(options), options.checkpoint.remote.where};
  ckpt::ClientOptions client = client_options(options, runtime, *agent);
  if (client.local_size < client.world_size) {
    CONVOY_RETURN_IF_ERROR(ckpt::find_nodes(*out.exchange_, client));
    out.places_.coordinator = client.coordinator;
    out.places_.generation = client.generation;
  }
  CONVOY_RETURN_IF_ERROR(fit_replicas(runtime, client));
  CONVOY_RETURN_IF_ERROR(check_nodes(options.checkpoint, client.nodes));
  auto checkpointer = ckpt::Checkpointer::create({std::move(client), options.checkpoint.spread});
  CONVOY_RETURN_IF_ERROR(agree(checkpointer.status()));
  out.checkpointer_ = std::move(checkpointer).value();
  return out;
}

ckpt::TensorState Checkpoints::add_position(ckpt::TensorState state) const {
  state.push_back({"data.position", {4}, {{{0}, position_}}});
  return state;
}

Result<int64_t> Checkpoints::resume(Trainer& trainer, Samples& samples, int64_t step_max) {
  last_ = 0;
  if (checkpointer_ == nullptr) return 0;
  saves_at_once_ = step_max != INT64_MAX;
  ckpt::LoadPlaces places = places_;
  places.step_max = static_cast<uint64_t>(step_max);
  const TimePoint begin = Clock::system().now();
  CONVOY_ASSIGN_OR_RETURN(
      const std::optional<ckpt::NearestStep> from,
      ckpt::load_nearest(places, add_position(trainer.state_to_load()), *exchange_));
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

// Steps that are left out are left out by all ranks, often several in a row: one of them tells.
void Checkpoints::report(int64_t step, const Result<ckpt::SaveOutcome>& outcome) {
  const bool is_left_out = outcome.ok() && outcome->skipped;
  if (!is_left_out && left_out_ > 0 && rank_ == 0) {
    CONVOY_LOG(Warn) << left_out_ << " step(s) before step " << step << " were not saved";
  }
  if (!is_left_out) left_out_ = 0;
  if (!outcome.ok()) {
    CONVOY_LOG(Error) << "checkpoint step " << step
                      << " was not saved: " << outcome.status().message();
  } else if (is_left_out && left_out_++ == 0 && rank_ == 0) {
    CONVOY_LOG(Warn) << "checkpoint step " << step << " was left out: " << outcome->why;
  }
}

double Checkpoints::after_step(int64_t step, bool is_last, Trainer& trainer,
                               const Samples& samples) {
  if (checkpointer_ == nullptr) return 0;
  // Until then memory and folder have steps that are newer and wrong.
  const bool at_once = std::exchange(saves_at_once_, false);
  if (step % every_ != 0 && !is_last && !at_once) return 0;
  if (step == last_) return 0;  // done before another rank failed in it
  const TimePoint begin = Clock::system().now();
  begin_save(step, /*everywhere=*/is_last || at_once, trainer, samples);
  return seconds_since(begin);
}

void Checkpoints::begin_save(int64_t step, bool everywhere, Trainer& trainer,
                             const Samples& samples) {
  if (std::exchange(copying_, false)) report(last_, checkpointer_->outcome());
  const dataset::SamplerState& now = samples.position();
  auto* n = position_.mutable_data_ptr<int64_t>();
  n[0] = static_cast<int64_t>(now.samples);
  n[1] = static_cast<int64_t>(now.seed);
  n[2] = static_cast<int64_t>(now.epoch);
  n[3] = static_cast<int64_t>(now.offset);
  ckpt::TensorState state = trainer.state_to_save();
  if (rank_ == 0) state = add_position(std::move(state));
  const auto outcome =
      checkpointer_->save_async(static_cast<uint64_t>(step), std::move(state), {}, everywhere);
  last_ = step;
  copying_ = true;
  (void)outcome;  // known at the next one, or at the end
}

Status Checkpoints::save_now(int64_t step, bool durably, Trainer& trainer, const Samples& samples) {
  if (checkpointer_ == nullptr) return {Code::kFailedPrecondition, "this run saves nothing"};
  // One that only memory was to have does not come to the folder.
  if (step != last_ || durably) begin_save(step, durably, trainer, samples);
  const auto outcome = checkpointer_->outcome();
  copying_ = false;
  report(last_, outcome);
  CONVOY_RETURN_IF_ERROR(outcome.status());
  if (outcome->skipped) return {Code::kUnavailable, "step was left out: " + outcome->why};
  if (durably) return wait_durable();
  return checkpointer_->wait(static_cast<uint64_t>(step), ckpt::Tier::kStaged, kFinishTimeout);
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
  return wait_durable();
}

Status Checkpoints::wait_durable() {
  const bool local = !places_.folder.empty();
  return checkpointer_
      ->wait(static_cast<uint64_t>(last_),
             local ? ckpt::Tier::kLocalDurable : ckpt::Tier::kRemoteDurable, kFinishTimeout)
      .with_context("the last checkpoint, step " + std::to_string(last_) + ", is not in " +
                    (local ? places_.folder : places_.remote));
}

}  // namespace convoy::runtime
