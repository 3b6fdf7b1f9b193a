#pragma once

#include <convoy/base/status.h>
#include <convoy/comm/group.h>
#include <convoy/parallel/tensor/linear.h>
#include <convoy/parallel/tensor/ops.h>
#include <convoy/parallel/tensor/parameter.h>

#include <ATen/core/Tensor.h>

#include <cstdint>
#include <vector>

namespace convoy::model {

// A Llama-family decoder: RMSNorm, rotary embedding, grouped-query attention, SwiGLU, optionally
// tied embeddings (Touvron et al., arXiv 2307.09288).
struct LlamaConfig {
  int64_t layers = 4;
  int64_t hidden = 128;
  int64_t heads = 8;
  int64_t kv_heads = 4;
  int64_t ffn = 384;
  int64_t vocab = 256;
  int64_t seq = 128;  // the longest sequence; positions' tables are this long
  double rope_base = 10000;
  double norm_eps = 1e-5;
  double dropout = 0;  // of the embedding and of each block's two outputs
  double init_std = 0.02;
  bool tied = true;

  int64_t head_dim() const { return hidden / heads; }
  int64_t parameter_count() const;
};

enum class Recompute : uint8_t {
  kNone,
  kSelective,  // what is cheap and large: attention core, norms' outputs, SwiGLU's product, gathers
  kFull,       // a layer keeps only its input
};

struct LlamaOptions {
  at::ScalarType dtype = at::kFloat;
  at::Device device = at::kCPU;
  uint64_t seed = 0;  // of initial values and dropout
  bool sequence_parallel = false;
  Recompute recompute = Recompute::kNone;
  bool overlap = false;  // see parallel::TensorRegion
};

// The part of the model that a pipeline stage holds: layers [layer_begin, layer_end), and the ends.
struct LlamaStage {
  int64_t layer_begin = 0;
  int64_t layer_end = 0;
  bool embedding = true;  // the first stage
  bool head = true;       // the last stage: final norm, head, loss
};

// What a forward pass computes on. Row b is sample first_sample + b * sample_stride of the step's
// global batch: the key of dropout, which so does not depend on the mesh or on micro-batches.
struct MicroBatch {
  at::Tensor tokens;   // int64 [batch, seq]; needed on the first stage
  at::Tensor targets;  // int64 [batch, seq], negative = not counted; needed on the last stage
  int64_t seq = 0;     // 0: the configuration's
  uint64_t step = 0;
  int64_t first_sample = 0;
  int64_t sample_stride = 1;
  double loss_scale = 1;  // factor of the sum over tokens: 1 / (tokens of the step) for a mean
  bool training = true;   // false: no dropout
};

// What is wrong with a configuration for tp ranks, and how to mend it.
Status check(const LlamaConfig& config, int tp, bool sequence_parallel);

// One rank's shard of one stage. Every value it holds is a function of (config, seed): any mesh
// starts from the same model. Reads the same on 1 rank and on 64.
//
// Gradients go to Parameter::grad (see there). Graphs refer to this object, which must outlive
// their backward. Not thread-safe. Errors: c10::Error, of comm::Group's calls too.
class Llama {
 public:
  // The configuration must pass check(). `tensor_group`: the tensor-parallel ranks of this stage.
  Llama(const LlamaConfig& config, const LlamaOptions& options, const LlamaStage& stage,
        const comm::Group& tensor_group);
  // The whole model as one stage.
  Llama(const LlamaConfig& config, const LlamaOptions& options, const comm::Group& tensor_group)
      : Llama(config, options, {0, config.layers, true, true}, tensor_group) {}

  // `hidden`: what the previous stage returned (undefined on the first). Returns this stage's
  // hidden state, [seq of this rank, batch, hidden], or on the last stage the loss: a scalar
  // (float64 for float64 models, else float32), equal on all tensor ranks.
  at::Tensor forward(const at::Tensor& hidden, const MicroBatch& batch) const;
  // As forward(), but the last stage returns the logits [seq, batch, vocab], whole on every tensor
  // rank: for samples. A collective.
  at::Tensor logits(const at::Tensor& hidden, const MicroBatch& batch) const;

  // The shape that forward() takes and gives between stages.
  std::vector<int64_t> hidden_shape(int64_t batch, int64_t seq = 0) const;
  // In the order in which forward uses them (backward completes them in reverse).
  const std::vector<parallel::ParameterPtr>& parameters() const { return parameters_; }
  const LlamaConfig& config() const { return config_; }
  const LlamaOptions& options() const { return options_; }
  const LlamaStage& stage() const { return stage_; }
  const comm::Group& tensor_group() const { return group_; }
  int64_t sequence_length(const MicroBatch& batch) const;

 private:
  struct Layer {
    int64_t index = 0;
    parallel::ParameterPtr attention_norm, qkv, attention_out, ffn_norm, gate_up, down;
  };
  // What one call's layers share.
  struct Call {
    parallel::TensorRegion region;
    parallel::ElementPlace place;
    uint64_t step = 0;
    double dropout = 0;
  };
  // The residual stream as the sum of `x` and the not yet added output `delta` of the feed-forward
  // block of layer `from` (undefined: none), so that the sum is part of the next norm's pass.
  struct Stream {
    at::Tensor x, delta;
    int64_t from = 0;
  };

  parallel::ParameterPtr add(parallel::Parameter description, double std);
  parallel::ParameterPtr add_norm(const std::string& name);
  Layer make_layer(int64_t index);
  Call start(const MicroBatch& batch) const;
  Stream layer(const Layer& layer, const Stream& in, const Call& call) const;
  parallel::Recomputable run(const at::Tensor& hidden, const Call& call,
                             const MicroBatch& batch) const;
  parallel::DropoutSpec dropout(parallel::Purpose purpose, int64_t layer, const Call& call) const;

  LlamaConfig config_;
  LlamaOptions options_;
  LlamaStage stage_;
  comm::Group group_;
  parallel::HeadShard heads_;
  parallel::RotaryTables rotary_;
  std::vector<parallel::ParameterPtr> parameters_;
  parallel::ParameterPtr embedding_, norm_, head_;
  std::vector<Layer> layers_;
};

}  // namespace convoy::model
