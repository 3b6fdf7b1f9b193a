#pragma once

#include <convoy/base/status.h>
#include <convoy/ckpt/tensor_state.h>
#include <convoy/comm/mesh_groups.h>
#include <convoy/model/llama.h>
#include <convoy/parallel/data/adamw.h>
#include <convoy/parallel/data/lr_schedule.h>
#include <convoy/parallel/pipeline/executor.h>
#include <convoy/parallel/schedule/schedule.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

namespace convoy::runtime {

// How to train a model: the same on every rank.
struct TrainerOptions {
  model::LlamaConfig model;
  model::LlamaOptions llama;      // type, seed, sequence parallel, recompute
  std::string schedule = "1f1b";  // gpipe | 1f1b | interleaved
  int chunks = 1;                 // model chunks a pipeline rank
  int64_t batch = 1;              // sequences in a step, over all ranks
  int microbatches = 1;  // in a step of one data-parallel rank, if all have equally many …
  int64_t rows = 0;      // … else (not 0): sequences of each, dealt out as evenly as can be
  data::AdamWOptions adamw;
  data::LrSchedule lr;
  double clip = 0;    // limit of the global gradient norm; 0: none
  bool zero = false;  // ZeRO stage 1
  int64_t bucket_bytes = 4 << 20;
};

// What one optimizer step tells; the same bits on every rank.
struct StepResult {
  double loss = 0;       // nats per token, the mean over the global batch
  double grad_norm = 0;  // of the whole model, before clipping
  double lr = 0;
};

// Trains a Llama model on the tp × pp × dp ranks of a mesh: this rank's chunks of the model, its
// gradient buckets, its optimizer state and its part of the pipeline. The code is the same for one
// rank and for many; on one rank every group is alone.
//
// Ownership: keeps copies of the groups, owns everything else. Threads: one. Blocks: all methods
// but the getters are collective over the mesh; deadlines are the groups'. Errors: c10::Error, with
// stage, micro-batch, group and ranks in the text.
class Trainer {
 public:
  // What is wrong with the options on this mesh, and how to mend it (kInvalidArgument): model,
  // layers and stages, batch, schedule.
  static Status check(const TrainerOptions& options, const Mesh& mesh);

  // The options must pass check().
  Trainer(const TrainerOptions& options, comm::MeshGroups& groups);
  ~Trainer();

  // Of a batch that is dealt out to the data-parallel ranks.
  struct Rows {
    int64_t begin = 0, count = 0;
  };
  // This rank's consecutive part of `batch` sequences, in whole micro-batches; may be none.
  Rows share(int64_t batch) const;

  // One optimizer step. `samples`: this data-parallel rank's share of the global batch, int64
  // [share(batch).count, seq + 1]; inputs are all tokens but the last, targets all but the first.
  StepResult step(const at::Tensor& samples);
  // The two halves of step(): until the gradients are there, which changes no parameter; then the
  // update from them.
  // `also`: numbers of this rank that become their sums over the world, with the norm's collective.
  StepResult forward_backward(const at::Tensor& samples, std::vector<double>* also = nullptr);
  void update(StepResult& result);
  // Whether forward_backward() has come so far that the gradients are the whole batch's, and no
  // update followed: update() with the loss and norm that another rank knows completes the step
  // then. False for a sharded optimizer, whose updates need all ranks.
  bool has_gradients() const { return has_gradients_; }
  // What a replica of this rank holds, too, bit for bit: flat memory to copy into another trainer's
  // with the same options and place in the model. Then restored(steps). Not if sharded.
  std::vector<at::Tensor> replica_state();
  // After its groups were formed again; as the constructor, on all ranks. There may be more or
  // fewer data-parallel ranks now, unless the optimizer is sharded; tp and pp must be as before.
  void connect();
  bool is_sharded() const { return buckets_->sharded(); }
  // forward_backward(), and the gradients are whole in the parameters afterwards (else a sharded
  // optimizer's are in parts).
  StepResult gradients(const at::Tensor& samples);
  // The mean loss of `batch` sequences, of which `samples` are this rank's share, without dropout
  // or gradients.
  double evaluate(const at::Tensor& samples, int64_t batch);
  // Continues `tokens` by `count` tokens drawn at `temperature` (0: the likeliest). All ranks get
  // the same. No cache of keys and values is kept: every token costs a forward pass over the
  // window.
  std::vector<int64_t> generate(std::vector<int64_t> tokens, int count, double temperature,
                                uint64_t seed);

  // This rank's part of a checkpoint, as views of what it trains on: each element of the model and
  // of the optimizer on exactly one rank of the mesh, data-parallel copies spread evenly. 16-bit
  // parameters are saved as their float32 masters.
  ckpt::TensorState state_to_save();
  // What this rank needs of a checkpoint, as views to load into; then restored(), which makes the
  // rest follow. A checkpoint of any mesh will do.
  ckpt::TensorState state_to_load();
  void restored();
  void restored(int64_t steps) { optimizer_->restored(steps); }

  // The learning rate's schedule ends at this step from now on.
  void set_total_steps(int64_t steps) { options_.lr.total_steps = steps; }

  int64_t steps_done() const { return optimizer_->steps_done(); }
  int64_t rows_per_rank() const { return share(options_.batch).count; }
  // This rank's parameters, by chunk.
  const std::vector<std::unique_ptr<model::Llama>>& chunks() const { return models_; }
  const data::FlatBuckets& buckets() const { return *buckets_; }
  int64_t optimizer_bytes() const { return optimizer_->state_bytes(); }
  const TrainerOptions& options() const { return options_; }

 private:
  enum class Purpose : uint8_t { kTrain, kEvaluate, kLogits };
  // What the stage functions compute on during a run of the pipeline.
  struct Work {
    Purpose purpose = Purpose::kTrain;
    at::Tensor tokens;   // [rows, seq]
    at::Tensor targets;  // [rows, seq]
    int64_t rows = 1;    // of one micro-batch
    double loss_scale = 1;
  };

  void make_schedule();
  void build_models(const Mesh& mesh);
  void build_buckets();
  at::Tensor compute(size_t chunk, const at::Tensor& hidden, int microbatch) const;
  model::MicroBatch microbatch(int index) const;
  pipeline::HiddenState hidden_state() const;
  void load(Purpose purpose, const at::Tensor& samples, int64_t batch);
  double local_loss(const std::vector<at::Tensor>& losses) const;
  ckpt::TensorState state_of(bool to_save);
  void add_steps(ckpt::TensorState& state);

  TrainerOptions options_;
  comm::Group tp_, pp_, dp_, world_;
  schedule::Schedule schedule_;
  std::vector<std::unique_ptr<model::Llama>> models_;  // by chunk
  std::vector<parallel::ParameterPtr> parameters_;     // as buckets_->params()
  at::Tensor steps_tensor_;                            // int64, on the CPU: for checkpoints
  std::unique_ptr<data::FlatBuckets> buckets_;
  std::unique_ptr<data::AdamW> optimizer_;
  std::unique_ptr<pipeline::Executor> executor_;
  Work work_;
  bool has_gradients_ = false;
};

}  // namespace convoy::runtime
