// A training run from the options to the run folder, in the order in which it happens. Only rank 0
// speaks; what decides how long the run goes on is rank 0's clock, which it tells the others.
#include "src/runtime/catch_up.h"
#include "src/runtime/checkpoints.h"
#include "src/runtime/one_process.h"
#include "src/runtime/place.h"
#include "src/runtime/replica_check.h"
#include "src/runtime/run_folder.h"
#include "src/runtime/samples.h"
#include "src/runtime/train_setup.h"
#include <convoy/base/clock.h>
#include <convoy/base/log.h>
#include <convoy/base/units.h>
#include <convoy/base/vitals.h>
#include <convoy/dataset/tokenizer.h>
#include <convoy/runtime/program.h>
#include <convoy/runtime/progress.h>
#include <convoy/runtime/train.h>
#include <convoy/runtime/trainer.h>
#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <memory>
#include <numbers>
#include <optional>
#include <unistd.h>

namespace convoy::runtime {
namespace {

// With a time limit, rank 0 looks at the clock every so many steps.
constexpr int64_t kClockSteps = 10;
// Validation points along the run and at its end, how many global batches each looks at (always the
// same ones, so that the points make a curve), and how many the result is taken from.
constexpr int64_t kValidations = 8;
constexpr int64_t kValidationBatches = 4;
constexpr int64_t kFinalValidationBatches = 16;

// So many times the norm of the step before is reason to look. (Ranks that have just come know no
// other step than that one, and all must look.)
constexpr double kOutlier = 20;

bool looks_wrong(const StepResult& now, const StepResult& before) {
  if (!std::isfinite(now.loss + now.grad_norm)) return true;
  return before.grad_norm > 0 && now.grad_norm > kOutlier * before.grad_norm;
}

// One run; the parts of train() share it.
class Run {
 public:
  Run(Runtime& runtime, const TrainOptions& options, const ModelPreset& preset, Samples samples,
      std::string folder, const TrainerOptions& trainer)
      : runtime_(runtime),
        options_(options),
        preset_(preset),
        samples_(std::move(samples)),
        folder_path_(std::move(folder)),
        trainer_options_(trainer),
        place_({runtime.mesh(), runtime.rank()}),
        replicas_(runtime.mesh(), runtime.rank(), pieces()) {}

  Status run();

 private:
  void measure_one_process();
  void make_trainer();
  Status begin();
  Status resume();
  Status rejoin(const Status& why);
  Status come_together();
  Status take_place(const CaughtUp& caught);
  Status join_run(const Standing& run, const char* mark);
  Status go_back(const Standing& run);
  Status work();
  Status train_steps();
  Status one_step();
  Status gradients(const at::Tensor& batch);
  Status repeat(const at::Tensor& batch, const StepResult& before);
  Status compare_and_compute(const at::Tensor& batch, bool all);
  Status replicas_differ(const std::vector<double>& sums);
  Status after_step();
  Status hold();
  Status record(double rate);
  void show(Progress* progress, double took);
  Status save(int64_t step, bool is_last);
  double validation_loss(int64_t batches);
  Status validate(int64_t step);
  void report(double validation_loss);
  std::string sample();
  int64_t agreed_steps(int64_t done, double seconds);
  Standing standing() const;
  void take_other_place();
  Status open_folder();
  Status speak(const char* mark);
  bool speaks() const { return runtime_.rank() == 0; }
  int64_t pieces() const { return trainer_options_.zero ? 0 : options_.check_replicas; }

  Runtime& runtime_;
  const TrainOptions& options_;
  const ModelPreset& preset_;
  Samples samples_;
  std::string folder_path_;
  RunFolder folder_;
  bool is_speaker_ = false;                 // has opened it
  std::optional<Checkpoints> checkpoints_;  // none before the run has begun
  TrainerOptions trainer_options_;
  Place place_;  // that what follows is made for
  std::unique_ptr<Trainer> trainer_;
  std::optional<Progress> progress_;
  double one_process_ = 0;  // tokens/s
  double rate_ = 0;         // tokens/s of all steps, validation not counted
  double recent_ = 0;       // of the last ones
  double training_ = 0;     // seconds of all steps, validation not counted
  TimePoint begin_{};       // of training
  bool has_begun_ = false;  // and so knows something that newcomers don't
  int64_t first_ = 0;       // steps that were done before this run
  int64_t steps_ = 0;
  int64_t after_ = 0;  // the newest whose validation and save are done, too
  int64_t total_ = 0;
  dataset::SamplerState position_;        // behind the last step
  dataset::SamplerState first_position_;  // of the whole run
  StepResult last_;
  ReplicaCheck replicas_;
  resilience::Hold hold_ = resilience::Hold::kNo;  // that all ranks have agreed on
  bool is_resized_ = false;                        // the checkpoints are of another mesh
  bool is_sound_ = true;         // else this rank's parameters are not to be trusted …
  int64_t trusted_ = INT64_MAX;  // … nor any rank's newer ones than after this step
};

void Run::measure_one_process() {
  if (!options_.measure_one || runtime_.size() == 1) return;
  one_process_ = runtime_.from_rank_zero(
      "one_process_rate", [&] { return one_process_rate(options_, preset_, trainer_options_); });
}

// How many steps the run takes in all, as rank 0 sees it after `done` of them.
int64_t Run::agreed_steps(int64_t done, double seconds) {
  if (options_.seconds <= 0 || done % kClockSteps != 0) return preset_.steps;
  int64_t steps = 0;
  if (speaks()) {
    const auto fit = first_ + static_cast<int64_t>(static_cast<double>(done - first_) *
                                                   options_.seconds / seconds);
    steps = std::clamp(fit, done, preset_.steps);
  }
  runtime_.groups().world().broadcast_numbers({&steps, 1}, 0);
  return steps;
}

// The loss over the first batches of the validation samples; not a number if there are too few.
double Run::validation_loss(int64_t batches) {
  // The same samples however many data-parallel ranks there are by now.
  const int64_t round = runtime_.full_mesh().size("dp") * trainer_options_.rows;
  int64_t count = std::min(batches * preset_.batch, samples_.validation_count());
  count -= count % round;
  if (count == 0) return std::numeric_limits<double>::quiet_NaN();
  const Trainer::Rows own = trainer_->share(count);
  return trainer_->evaluate(samples_.validation(own.begin, own.count), count);
}

// A point of the validation curve.
Status Run::validate(int64_t step) {
  const double loss = validation_loss(kValidationBatches);
  if (!speaks() || folder_.has_validation(step)) return ok_status();
  return folder_.validation(step, loss);
}

Status Run::resume() {
  CONVOY_ASSIGN_OR_RETURN(first_, checkpoints_->resume(*trainer_, samples_));
  steps_ = after_ = first_;
  if (first_ == 0 || !speaks()) return ok_status();
  CONVOY_LOG(Info) << checkpoints_->story();
  if (first_ >= preset_.steps) {
    CONVOY_LOG(Info) << "nothing is left to train: --steps is " << preset_.steps;
  }
  return folder_.resume(first_);
}

Status Run::one_step() {
  const trace::Span step(trace::intern(trace::names::kStep), static_cast<uint64_t>(steps_ + 1));
  std::optional<trace::Span> data(std::in_place, trace::intern(trace::names::kData));
  CONVOY_RETURN_IF_ERROR(samples_.go_to(position_));  // where a step that failed had begun
  const Trainer::Rows own = trainer_->share(preset_.batch);
  const at::Tensor batch = samples_.next(preset_.batch, own.begin, own.count);
  data.reset();
  CONVOY_RETURN_IF_ERROR(gradients(batch));
  const double stalled = checkpoints_->before_update();
  if (speaks() && stalled > 0) {
    CONVOY_RETURN_IF_ERROR(folder_.stalled(trainer_->steps_done(), stalled));
  }
  trainer_->update(last_);
  position_ = samples_.position();
  ++steps_;
  return ok_status();
}

// Until it is clear that the update may be made.
Status Run::gradients(const at::Tensor& batch) {
  const StepResult before = last_;
  CONVOY_RETURN_IF_ERROR(compare_and_compute(batch, /*all=*/false));
  if (const auto answer = replicas_.answer()) {
    CONVOY_LOG(Warn) << *answer;
  }
  return looks_wrong(last_, before) ? repeat(batch, before) : ok_status();
}

// All ranks see the same values. What the program does it does again; what hardware does, mostly
// not, or not to all replicas.
Status Run::repeat(const at::Tensor& batch, const StepResult& before) {
  const StepResult first = std::exchange(last_, before);
  CONVOY_RETURN_IF_ERROR(compare_and_compute(batch, /*all=*/true));
  if (!looks_wrong(last_, before) && speaks()) {
    CONVOY_LOG(Warn) << "step " << steps_ + 1 << " gave loss " << first.loss << ", gradient norm "
                     << first.grad_norm << ", and " << last_.loss << ", " << last_.grad_norm
                     << " when it was repeated: some rank's hardware has failed once (`convoy "
                        "doctor`)";
  }
  return ok_status();
}

// Gradients, and whether the replicas that they were made from are equal: one piece of them, or
// all. last_ stays if they are not.
Status Run::compare_and_compute(const at::Tensor& batch, bool all) {
  std::vector<double> sums;
  if (replicas_.is_on()) sums = replicas_.numbers(steps_, trainer_->replica_state(), all);
  const resilience::Hold asked = runtime_.hold();
  sums.push_back(asked == resilience::Hold::kNo ? 0 : 1);
  sums.push_back(asked == resilience::Hold::kDurably ? 1 : 0);
  const StepResult result = trainer_->forward_backward(batch, &sums);
  const bool durably = sums.back() > 0, holds = sums[sums.size() - 2] > 0;
  sums.resize(sums.size() - 2);
  hold_ = !holds    ? resilience::Hold::kNo
          : durably ? resilience::Hold::kDurably
                    : resilience::Hold::kInMemory;
  if (replicas_.differs(sums)) return replicas_differ(sums);
  last_ = result;
  return ok_status();
}

Status Run::replicas_differ(const std::vector<double>& sums) {
  if (!replicas_.own_differs(sums)) {
    return {Code::kAborted,
            "replicas of another part of the model differ after step " + std::to_string(steps_)};
  }
  const ReplicaCheck::Finding found = replicas_.compare(runtime_.group("dp"));
  is_sound_ = !found.is_wrong;
  // All of it was equal so many steps ago.
  if (found.wrong.empty()) trusted_ = std::max<int64_t>(0, steps_ - replicas_.pieces());
  runtime_.report_corruption(found.text, found.wrong, steps_);
  return {runtime_.can_recover() ? Code::kAborted : Code::kDataLoss, found.text};
}

Status Run::save(int64_t step, bool is_last) {
  const trace::Span span(trace::intern(trace::names::kCheckpoint), static_cast<uint64_t>(step));
  const double stalled = checkpoints_->after_step(step, is_last, *trainer_, samples_);
  return speaks() && stalled > 0 ? folder_.stalled(step, stalled) : ok_status();
}

// Writes the last step down, unless that was done.
Status Run::record(double rate) {
  if (!speaks() || steps_ == 0 || folder_.has_step(steps_)) return ok_status();
  return folder_.step(steps_, last_, steps_ * preset_.batch * preset_.sequence, rate,
                      seconds_since(begin_));
}

void Run::show(Progress* progress, double took) {
  const double rate = static_cast<double>(preset_.batch * preset_.sequence) / took;
  recent_ = recent_ == 0 ? rate : 0.9 * recent_ + 0.1 * rate;
  if (progress == nullptr) return;
  progress->set_total_steps(total_);
  StepReport report;
  report.step = steps_;
  report.loss = last_.loss;
  report.tokens_per_s = recent_;
  if (one_process_ > 0) report.one_process_share = recent_ / one_process_;
  progress->update(report);
}

// What follows a step; done again by all if some rank has failed in it.
Status Run::after_step() {
  if (steps_ == total_ || steps_ % std::max<int64_t>(1, total_ / kValidations) == 0) {
    CONVOY_RETURN_IF_ERROR(validate(steps_));
  }
  CONVOY_RETURN_IF_ERROR(save(steps_, steps_ == total_));
  after_ = steps_;
  return ok_status();
}

Status Run::train_steps() {
  if (after_ < steps_) CONVOY_RETURN_IF_ERROR(after_step());
  const double step_tokens = static_cast<double>(preset_.batch * preset_.sequence);
  while (steps_ < total_) {
    const TimePoint step_begin = Clock::system().now();
    CONVOY_RETURN_IF_ERROR(one_step());
    const double took = seconds_since(step_begin);
    runtime_.stepped(steps_);
    vitals().training = 1;
    CONVOY_RETURN_IF_ERROR(record(step_tokens / took));
    if (!std::isfinite(last_.loss)) {
      return {Code::kInvalidArgument, "the loss is not a number any more after step " +
                                          std::to_string(steps_) + "; take a smaller --lr"};
    }
    if (options_.seconds > 0 && steps_ % kClockSteps == 0) {
      total_ = agreed_steps(steps_, seconds_since(begin_));
      trainer_->set_total_steps(total_);
    }
    training_ += took;
    rate_ = static_cast<double>(steps_ - first_) * step_tokens / training_;
    show(progress_ ? &*progress_ : nullptr, took);
    CONVOY_RETURN_IF_ERROR(after_step());
    if (hold_ != resilience::Hold::kNo && steps_ < total_) return hold();
  }
  vitals().training = 0;
  return ok_status();
}

// All ranks: what some of them have is to be elsewhere in the next generation.
Status Run::hold() {
  vitals().training = 0;
  const bool durably = std::exchange(hold_, resilience::Hold::kNo) == resilience::Hold::kDurably;
  const Status saved = checkpoints_->save_now(steps_, durably, *trainer_, samples_);
  if (!saved.ok()) {
    CONVOY_LOG(Warn) << "step " << steps_ << " can't be kept: " << saved.message();
  }
  runtime_.held(steps_);
  return {Code::kAborted, "held after step " + std::to_string(steps_)};
}

std::string Run::sample() {
  auto tokenizer = dataset::make_tokenizer(samples_.info().tokenizer);
  if (!tokenizer.ok() || options_.sample == 0) return {};
  std::vector<uint32_t> prompt;
  (*tokenizer)->encode(options_.prompt.empty() ? "\n" : options_.prompt, prompt);
  const std::vector<int64_t> tokens = trainer_->generate(
      {prompt.begin(), prompt.end()}, options_.sample, options_.temperature, options_.seed);
  return (*tokenizer)->decode(std::vector<uint32_t>(tokens.begin(), tokens.end()));
}

void Run::report(double validation_loss) {
  const std::string text = sample();
  if (!speaks()) return;
  const double bits = validation_loss / std::numbers::ln2;
  const double share = one_process_ > 0 ? rate_ / one_process_ : 1;
  if (options_.json) {
    std::printf(
        "{\"mesh\":\"%s\",\"resumed_from\":%lld,\"steps\":%lld,\"loss\":%.9g,\"grad_norm\":%.9g,"
        "\"validation_loss\":%.9g,"
        "\"bits_per_byte\":%.6g,\"tokens_per_s\":%.1f,\"one_process_share\":%.4f}\n",
        runtime_.mesh().to_string().c_str(), static_cast<long long>(first_),
        static_cast<long long>(steps_), last_.loss, last_.grad_norm, validation_loss, bits, rate_,
        share);
    return;
  }
  std::printf(
      "\n%lld steps on mesh %s: training loss %.4f, validation loss %.4f, %.3f bits per "
      "byte\n%.0f tokens/s",
      static_cast<long long>(steps_), runtime_.mesh().to_string().c_str(), last_.loss,
      validation_loss, bits, rate_);
  if (one_process_ > 0) {
    std::printf(", %.0f %% of one process alone on this machine (%.0f tokens/s)", 100 * share,
                one_process_);
  }
  std::printf("\n\n%s\n", text.c_str());
  std::fflush(stdout);
}

void Run::make_trainer() {
  trainer_.reset();  // its memory first
  trainer_ = std::make_unique<Trainer>(trainer_options_, runtime_.groups());
  const auto& first = trainer_->buckets().buckets().front();
  vitals().parameters = reinterpret_cast<uint64_t>(first.params.data_ptr());
  vitals().parameter_bytes = first.params.nbytes();
  vitals().gradients = reinterpret_cast<uint64_t>(first.grads.data_ptr());
  vitals().gradient_bytes = first.grads.nbytes();
}

// All ranks together, none of which has trained yet.
Status Run::begin() {
  if (speaks() && !is_speaker_) CONVOY_RETURN_IF_ERROR(open_folder());
  CONVOY_ASSIGN_OR_RETURN(checkpoints_, Checkpoints::open(options_, runtime_, /*alone=*/false));
  is_resized_ = false;
  is_sound_ = true;
  make_trainer();
  total_ = preset_.steps;
  CONVOY_RETURN_IF_ERROR(samples_.go_to(first_position_));
  CONVOY_RETURN_IF_ERROR(resume());
  position_ = samples_.position();
  begin_ = Clock::system().now();
  has_begun_ = true;
  runtime_.caught_up(steps_, steps_ > 0 ? checkpoints_->story() : "the beginning");
  return ok_status();
}

Standing Run::standing() const {
  Standing s;
  s.is_valid = has_begun_;
  s.is_sound = is_sound_;
  s.is_resized = is_resized_;
  s.trusted = trusted_;
  s.steps = steps_;
  s.after = after_;
  s.total = total_;
  s.elapsed = seconds_since(begin_);
  s.last = last_;
  s.position = position_;
  return s;
}

// The mesh has become another one, or this rank's place in it.
void Run::take_other_place() {
  const Place now{runtime_.mesh(), runtime_.rank()};
  if (!speaks()) is_speaker_ = false;
  if (now == place_) return;
  is_resized_ = true;
  // Of another part of the model, or of its optimizer, this rank has no state.
  if (!now.holds_the_same(place_, trainer_options_.zero)) {
    is_sound_ = false;
    trainer_.reset();
  }
  place_ = now;
  replicas_ = ReplicaCheck(runtime_.mesh(), runtime_.rank(), pieces());
}

// Among the ranks of a new generation: the newest step that any of them has done.
Status Run::come_together() {
  take_other_place();
  if (trainer_ == nullptr) {
    make_trainer();
  } else {
    trainer_->connect();
  }
  const CaughtUp caught = catch_up(runtime_, *trainer_, standing(), [this] {
    if (checkpoints_) checkpoints_->before_update();
  });
  if (!caught.now.is_valid) return begin();
  // Several machines have to agree on who they are, each time anew; and so do other ranks.
  const bool together = runtime_.spans_machines() || caught.is_resized;
  if (together) checkpoints_.reset();
  if (!checkpoints_) {
    CONVOY_ASSIGN_OR_RETURN(checkpoints_, Checkpoints::open(options_, runtime_, !together));
  }
  is_resized_ = false;
  if (!caught.is_whole) {
    CONVOY_RETURN_IF_ERROR(go_back(caught.now));
  } else {
    CONVOY_RETURN_IF_ERROR(take_place(caught));
  }
  is_sound_ = true;
  trusted_ = INT64_MAX;
  return ok_status();
}

Status Run::take_place(const CaughtUp& caught) {
  steps_ = caught.now.steps;
  after_ = caught.now.after;
  last_ = caught.now.last;
  position_ = caught.now.position;
  CONVOY_RETURN_IF_ERROR(join_run(caught.now, "recovered"));
  CONVOY_RETURN_IF_ERROR(record(0));
  runtime_.caught_up(steps_, caught.source);
  return ok_status();
}

// What a newcomer has to know of a run that is under way.
Status Run::join_run(const Standing& run, const char* mark) {
  total_ = run.total;
  trainer_->set_total_steps(total_);
  if (!std::exchange(has_begun_, true)) {
    first_ = steps_;
    begin_ = Clock::system().now() -
             std::chrono::duration_cast<Nanos>(std::chrono::duration<double>(run.elapsed));
  }
  return speaks() ? speak(mark) : ok_status();
}

// Rank 0 is another process now: what its predecessor has written is its own.
Status Run::speak(const char* mark) {
  if (is_speaker_) return ok_status();
  CONVOY_RETURN_IF_ERROR(open_folder());
  return folder_.resume(steps_, mark);
}

Status Run::open_folder() {
  is_speaker_ = true;
  const bool live =
      ::isatty(STDOUT_FILENO) == 1 || runtime_.environment().launcher == launch::Launcher::kConvoy;
  if (!options_.json && !progress_) progress_.emplace(preset_.steps, live);
  const std::string config = describe_json(options_, preset_, runtime_.full_mesh().to_string(),
                                           trainer_options_.model.parameter_count());
  CONVOY_ASSIGN_OR_RETURN(folder_, RunFolder::open(folder_path_, config));
  return ok_status();
}

// No rank has all of the state any more: all go on from what was saved, or from the beginning.
Status Run::go_back(const Standing& run) {
  checkpoints_->before_update();
  make_trainer();
  last_ = {};
  CONVOY_RETURN_IF_ERROR(samples_.go_to(first_position_));
  CONVOY_ASSIGN_OR_RETURN(steps_, checkpoints_->resume(*trainer_, samples_, run.trusted));
  after_ = steps_;
  position_ = samples_.position();
  const bool has_spoken = is_speaker_;
  CONVOY_RETURN_IF_ERROR(join_run(run, "went back"));
  if (has_spoken) CONVOY_RETURN_IF_ERROR(folder_.resume(steps_, "went back"));
  runtime_.caught_up(steps_, steps_ > 0 ? checkpoints_->story() : "the beginning");
  return ok_status();
}

// Whatever has failed: in the next generation, once all ranks are there.
Status Run::rejoin(const Status& why) {
  CONVOY_RETURN_IF_ERROR(runtime_.rejoin(why, steps_));
  return attempt([this] { return come_together(); });
}

// What is left to do, from wherever this rank stands.
Status Run::work() {
  CONVOY_RETURN_IF_ERROR(train_steps());
  const double result = validation_loss(kFinalValidationBatches);
  if (speaks()) CONVOY_RETURN_IF_ERROR(folder_.result(steps_, result));
  report(result);
  if (speaks()) {
    CONVOY_RETURN_IF_ERROR(folder_.finish(
        "Loss of model " + options_.config + " on mesh " + runtime_.mesh().to_string(),
        options_.reference));
  }
  CONVOY_RETURN_IF_ERROR(checkpoints_->finish());
  // Nobody leaves before all are through: who fails until then is replaced.
  if (runtime_.ends_together()) runtime_.groups().world().barrier();
  return ok_status();
}

// Whether other ranks may have caused it.
bool may_be_others_fault(const Status& status) {
  switch (status.code()) {
    case Code::kAborted:
    case Code::kUnavailable:
    case Code::kDeadlineExceeded:
    case Code::kMismatch:
    case Code::kFailedPrecondition:  // a group that was aborted before it was used
      return true;
    default:
      return false;
  }
}

Status Run::run() {
  first_position_ = samples_.position();
  if (speaks() && !runtime_.is_newcomer()) CONVOY_RETURN_IF_ERROR(open_folder());
  Status status = attempt([this] {
    if (runtime_.is_newcomer()) return come_together();
    measure_one_process();  // the others wait, so that rank 0 has the machine to itself
    return begin();
  });
  vitals().takes_any_mesh = options_.checkpoint.any() ? 1 : 0;  // whose state comes from there
  while (true) {
    if (status.ok()) status = attempt([this] { return work(); });
    if (status.ok() || !runtime_.can_recover() || !may_be_others_fault(status)) break;
    const Status why = status;
    status = rejoin(why);
    if (!status.ok() && status.message() == why.message()) break;  // nobody leads us on
  }
  vitals().training = 0;
  if (!status.ok()) runtime_.give_up(status, steps_);
  return status;
}

}  // namespace

Status train(Runtime& runtime, const TrainOptions& options) {
  CONVOY_ASSIGN_OR_RETURN(ModelPreset preset, model_preset(options.config));
  preset = preset_of(options);
  CONVOY_ASSIGN_OR_RETURN(Samples samples, Samples::open(options, preset.sequence, preset.batch));
  TrainerOptions trainer = trainer_options(
      options, preset, static_cast<int64_t>(samples.info().vocabulary_size), runtime);
  CONVOY_RETURN_IF_ERROR(Trainer::check(trainer, runtime.full_mesh()));
  // Micro-batches stay as large with fewer ranks.
  trainer.rows = preset.batch / (runtime.full_mesh().size("dp") * trainer.microbatches);
  const std::string path =
      options.run_dir.empty() ? runtime.environment().run_dir : options.run_dir;
  const Status status = Run(runtime, options, preset, std::move(samples), path, trainer).run();
  if (status.ok()) runtime.groups().shutdown();
  if (status.ok() && runtime.rank() == 0 && !path.empty() && !options.json) {
    std::printf("run folder: %s (config.json, metrics.jsonl, loss.svg)\n", path.c_str());
  }
  return status;
}

}  // namespace convoy::runtime
