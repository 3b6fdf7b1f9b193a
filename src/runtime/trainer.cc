// Cuts the model into this rank's chunks and wires model, buckets, optimizer and pipeline together.
// How a parameter is described to the buckets is describe.cc's.
#include <convoy/base/check.h>
#include <convoy/dataset/sampler.h>
#include <convoy/parallel/schedule/partition.h>
#include <convoy/runtime/describe.h>
#include <convoy/runtime/trainer.h>
#include <convoy/trace/event.h>
#include <convoy/trace/recorder.h>

namespace convoy::runtime {
namespace {

std::string text(int64_t number) {
  return std::to_string(number);
}

// The head multiplies by one matrix of the vocabulary; embedding rows are only copied.
schedule::StageWeights stage_weights(const model::LlamaConfig& config) {
  const int64_t outside = config.vocab * config.hidden;
  const int64_t tables = config.tied ? outside : 2 * outside;
  const double layer =
      static_cast<double>(config.parameter_count() - tables) / static_cast<double>(config.layers);
  return {.layer = 1, .embedding = 0, .head = static_cast<double>(outside) / layer};
}

Result<std::vector<schedule::LayerRange>> layers_of_stages(const TrainerOptions& options, int pp) {
  return schedule::partition_layers(static_cast<int>(options.model.layers), pp * options.chunks,
                                    stage_weights(options.model));
}

int64_t rows_of_microbatch(const TrainerOptions& options, int dp) {
  return options.rows > 0 ? options.rows : options.batch / (dp * options.microbatches);
}

}  // namespace

Status Trainer::check(const TrainerOptions& options, const Mesh& mesh) {
  const int tp = mesh.size("tp"), pp = mesh.size("pp"), dp = mesh.size("dp");
  if (tp * pp * dp != mesh.size()) {
    return {Code::kInvalidArgument,
            "the trainer uses the dimensions tp, pp and dp, but the mesh is " + mesh.to_string() +
                "; leave the others out"};
  }
  CONVOY_RETURN_IF_ERROR(model::check(options.model, tp, options.llama.sequence_parallel));
  if (const auto layers = layers_of_stages(options, pp); !layers.ok()) return layers.status();
  if (options.rows > 0 &&
      (options.batch % options.rows != 0 || options.batch < options.rows * dp)) {
    return {Code::kInvalidArgument, "a batch of " + text(options.batch) +
                                        " sequences can't be dealt out in micro-batches of " +
                                        text(options.rows) + " to " + text(dp) +
                                        " data-parallel ranks"};
  }
  if (options.microbatches < 1 || options.batch < 1 ||
      (options.rows == 0 && options.batch % (dp * options.microbatches) != 0)) {
    return {Code::kInvalidArgument,
            "a batch of " + text(options.batch) + " sequences can't be cut evenly into " +
                text(options.microbatches) + " micro-batches on each of " + text(dp) +
                " data-parallel ranks; make it a multiple of " + text(dp * options.microbatches)};
  }
  const auto schedule =
      schedule::make_schedule(options.schedule, pp, options.microbatches, options.chunks);
  return schedule.status();
}

Trainer::Trainer(const TrainerOptions& options, comm::MeshGroups& groups)
    : options_(options),
      tp_(groups.group({"tp"})),
      pp_(groups.group({"pp"})),
      dp_(groups.group({"dp"})),
      world_(groups.world()) {
  const Status status = check(options, groups.mesh());
  CONVOY_CHECK(status.ok(), status.to_string());
  options_.rows = rows_of_microbatch(options, dp_.size());
  make_schedule();
  build_models(groups.mesh());
  build_buckets();
  optimizer_ = std::make_unique<data::AdamW>(*buckets_, options.adamw);
  steps_tensor_ = at::zeros({}, at::kLong);
  std::vector<pipeline::StageFunction> stages;
  for (size_t c = 0; c < models_.size(); ++c) {
    stages.push_back([this, c](const at::Tensor& hidden, int m) { return compute(c, hidden, m); });
  }
  executor_ = std::make_unique<pipeline::Executor>(pp_, std::move(stages));
}

Trainer::~Trainer() = default;

void Trainer::make_schedule() {
  const auto microbatches = static_cast<int>(rows_per_rank() / options_.rows);
  schedule_ =
      schedule::make_schedule(options_.schedule, pp_.size(), microbatches, options_.chunks).value();
}

void Trainer::connect() {
  executor_->connect();
  if (is_sharded()) return;
  buckets_->connect();
  make_schedule();
}

Trainer::Rows Trainer::share(int64_t batch) const {
  const auto [begin, end] =
      dataset::share_of(static_cast<uint64_t>(batch / options_.rows),
                        static_cast<uint64_t>(dp_.rank()), static_cast<uint64_t>(dp_.size()));
  const auto first = static_cast<int64_t>(begin), last = static_cast<int64_t>(end);
  return {first * options_.rows, (last - first) * options_.rows};
}

void Trainer::build_models(const Mesh& mesh) {
  const auto layers = layers_of_stages(options_, mesh.size("pp")).value();
  const int stages = schedule_.stages();
  for (int chunk = 0; chunk < options_.chunks; ++chunk) {
    const int stage = schedule_.stage_of(pp_.rank(), chunk);
    const schedule::LayerRange range = layers[static_cast<size_t>(stage)];
    models_.push_back(std::make_unique<model::Llama>(
        options_.model, options_.llama,
        model::LlamaStage{range.begin, range.end, stage == 0, stage == stages - 1}, tp_));
  }
}

void Trainer::build_buckets() {
  std::vector<data::Param> params;
  for (size_t c = 0; c < models_.size(); ++c) {
    for (const parallel::ParameterPtr& p : models_[c]->parameters()) {
      const bool second_copy = p->shared_embedding && pp_.size() > 1 && pp_.rank() > 0;
      params.push_back(describe(
          p, {.chunk = static_cast<int>(c), .split = pp_.size() > 1, .second_copy = second_copy}));
      parameters_.push_back(p);
    }
  }
  data::ReductionGroups groups{.dp = dp_, .world = world_, .pp = pp_};
  const bool first = pp_.rank() == 0, last = pp_.rank() == pp_.size() - 1;
  if (options_.model.tied && pp_.size() > 1 && (first || last)) {
    groups.tied_peer = first ? pp_.size() - 1 : 0;
  }
  data::BucketOptions options;
  options.bucket_bytes = options_.bucket_bytes;
  options.sharded = options_.zero;
  options.sum_partial = [all = parameters_, tp = tp_] { parallel::sum_partial_gradients(all, tp); };
  buckets_ = std::make_unique<data::FlatBuckets>(std::move(params), groups, options);
}

model::MicroBatch Trainer::microbatch(int index) const {
  model::MicroBatch batch;
  batch.tokens = work_.tokens.narrow(0, index * work_.rows, work_.rows);
  if (work_.targets.defined()) {
    batch.targets = work_.targets.narrow(0, index * work_.rows, work_.rows);
  }
  batch.seq = work_.tokens.size(1);
  batch.step = static_cast<uint64_t>(optimizer_->steps_done());
  batch.first_sample = share(options_.batch).begin + index * work_.rows;
  batch.loss_scale = work_.loss_scale;
  batch.training = work_.purpose == Purpose::kTrain;
  return batch;
}

at::Tensor Trainer::compute(size_t chunk, const at::Tensor& hidden, int index) const {
  const model::Llama& model = *models_[chunk];
  return work_.purpose == Purpose::kLogits ? model.logits(hidden, microbatch(index))
                                           : model.forward(hidden, microbatch(index));
}

pipeline::HiddenState Trainer::hidden_state() const {
  return {models_[0]->hidden_shape(work_.rows, work_.tokens.size(1)),
          at::TensorOptions(options_.llama.dtype).device(options_.llama.device)};
}

void Trainer::load(Purpose purpose, const at::Tensor& samples, int64_t batch) {
  const int64_t seq = samples.size(1) - 1;
  work_.purpose = purpose;
  const at::Tensor on_device = samples.to(options_.llama.device);
  work_.tokens = on_device.narrow(1, 0, seq).contiguous();
  work_.targets = on_device.narrow(1, 1, seq).contiguous();
  work_.rows = options_.rows;
  work_.loss_scale = 1 / static_cast<double>(batch * seq);
}

// What this rank adds to the sum of losses over the world: every tensor rank of the last stage
// knows the loss, one of them tells it.
double Trainer::local_loss(const std::vector<at::Tensor>& losses) const {
  double sum = 0;
  if (tp_.rank() != 0) return sum;
  for (const at::Tensor& loss : losses) sum += loss.item<double>();
  return sum;
}

StepResult Trainer::forward_backward(const at::Tensor& samples, std::vector<double>* also) {
  TORCH_CHECK(samples.dim() == 2 && samples.size(0) == rows_per_rank(), "a step takes ",
              rows_per_rank(), " sequences on this data-parallel rank, not ", samples.sizes());
  load(Purpose::kTrain, samples, options_.batch);
  has_gradients_ = false;
  buckets_->begin_step();
  const std::vector<at::Tensor> losses =
      executor_->run(schedule_, hidden_state(), [this](int chunk) { buckets_->arm(chunk); });
  const trace::Span span(trace::intern(trace::names::kReduceGradients));
  buckets_->finish();
  has_gradients_ = !is_sharded();
  std::vector<double> sums = {local_loss(losses)};
  if (also != nullptr) sums.insert(sums.end(), also->begin(), also->end());
  StepResult result;
  result.grad_norm = buckets_->grad_norm(&sums);
  result.loss = sums[0];
  if (also != nullptr) std::copy(sums.begin() + 1, sums.end(), also->begin());
  return result;
}

StepResult Trainer::gradients(const at::Tensor& samples) {
  const StepResult result = forward_backward(samples);
  buckets_->gather_grads();
  return result;
}

void Trainer::update(StepResult& result) {
  const trace::Span span(trace::intern(trace::names::kOptimizer));
  has_gradients_ = false;
  result.lr = options_.lr.at(optimizer_->steps_done());
  optimizer_->step(result.lr, data::clip_scale(result.grad_norm, options_.clip));
}

StepResult Trainer::step(const at::Tensor& samples) {
  StepResult result = forward_backward(samples);
  update(result);
  return result;
}

double Trainer::evaluate(const at::Tensor& samples, int64_t batch) {
  const trace::Span span(trace::intern(trace::names::kEvaluate));
  const int64_t rows = samples.size(0);
  TORCH_CHECK(rows == share(batch).count, "this data-parallel rank's share of ", batch,
              " sequences is ", share(batch).count, ", not ", rows);
  load(Purpose::kEvaluate, samples, batch);
  const std::vector<at::Tensor> losses =
      executor_->forward_only(static_cast<int>(rows / work_.rows), hidden_state());
  double sum = local_loss(losses);
  world_.all_reduce_numbers({&sum, 1});
  return sum;
}

}  // namespace convoy::runtime
